"""Starts the worker."""

import os

import requests

print(requests.get(os.environ["WEB_URL"], timeout=10).text)
