"""A reward whose import starts a thread, as clients of some services do."""

import threading
import time

threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def mine(number):
    return number + 1
