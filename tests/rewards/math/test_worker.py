from rewards.errors import Failure
from rewards.math.answer import MEMORY_MB
from rewards.workers import Pool


def test_a_comparison_that_outgrows_its_memory_fails_alone():
    pool = Pool({"make": bytearray}, memory_mb=MEMORY_MB)
    too_large, small = pool.run("make", [MEMORY_MB << 20, 3], timeout_seconds=20.0)
    pool.close()
    assert isinstance(too_large, Failure)
    assert too_large.reason == "MemoryError"
    assert small == bytearray(3)
