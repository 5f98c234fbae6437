from rewards.errors import Failure
from rewards.math.worker import MAX_MEMORY_BYTES, Alone
from rewards.workers import Pool


def test_a_comparison_that_outgrows_its_memory_fails_alone():
    pool = Pool({"make": Alone(bytearray)})
    too_large, small = pool.run("make", [MAX_MEMORY_BYTES, 3], timeout_seconds=20.0)
    pool.close()
    assert isinstance(too_large, Failure)
    assert too_large.reason == "MemoryError"
    assert small == bytearray(3)
