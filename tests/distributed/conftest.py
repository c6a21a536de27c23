"""How often the long tests try."""


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=6, help="ranks that are killed, each in a group")
