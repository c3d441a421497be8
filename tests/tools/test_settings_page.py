import pytest

from p2pkit.settings import settings_in
from tools.settings_page import COMMANDS, PAGE, page


def test_the_page_is_what_the_classes_say() -> None:
    assert PAGE.read_text() == page(), "run python tools/settings_page.py"


@pytest.mark.parametrize("kind", [kind for kind, _ in COMMANDS.values()])
def test_every_setting_has_a_description(kind: type) -> None:
    for setting in settings_in(kind):
        assert len(setting.field.description or "") >= 5, setting.name
