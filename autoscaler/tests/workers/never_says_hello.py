"""Starts and stays silent."""

import time

time.sleep(3600)
