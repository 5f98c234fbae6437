"""What pip leaves behind of a package that offers rewards."""

MODULE = """
def brief(completion, *, limit=10):
    return max(0.0, 1 - len(completion) / limit)

class Letters:
    def __init__(self, letter="a"):
        self.letter = letter

    def __call__(self, completion):
        return completion.count(self.letter)
"""
ENTRY_POINTS = """
[textenv.rewards]
brief = fake_rewards:brief
letters = fake_rewards:Letters
lost = fake_rewards:nothing
gone = no_such_module_anywhere:nothing

[other.group]
stranger = fake_rewards:brief
"""


def install(folder, name, entry_points=ENTRY_POINTS):
    """The metadata of an installed package, in a folder that is on `sys.path`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
