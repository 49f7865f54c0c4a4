"""A shop with one page."""

import os

from flask import Flask, render_template


def create_app() -> Flask:
    app = Flask(__name__)

    @app.get("/")
    def index() -> str:
        return render_template("index.html", title=os.environ.get("SHOP_TITLE", "Shop"))

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app
