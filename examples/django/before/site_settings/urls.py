"""One page."""

from django.http import HttpRequest, HttpResponse
from django.urls import path


def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse("<h1>Notes</h1>")


urlpatterns = [path("", index)]
