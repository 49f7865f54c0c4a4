"""One route, with the workspace's other package."""

from fastapi import FastAPI
from greeting import greet

app = FastAPI()


@app.get("/")
def index(name: str = "world") -> dict[str, str]:
    return {"text": greet(name)}
