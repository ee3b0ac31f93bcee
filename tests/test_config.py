"""Layers, unions and what is said about wrong settings, on configs made for the purpose."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hfseg.config import Config, differences
from hfseg.errors import ConfigError


class Cat(Config):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(Config):
    kind: Literal["dog"] = "dog"
    name: str
    tricks: tuple[str, ...] = ()


class Home(Config):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    guest: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    rate: PositiveFloat = 1e-3
    doors: int = 1
    size: PositiveInt | tuple[PositiveInt, PositiveInt] = 1

    @model_validator(mode="after")
    def _enough_doors(self) -> "Home":
        if self.doors == 13:
            raise ValueError("13 doors are unlucky\n\nhint: take 12")
        return self


@pytest.fixture
def written(tmp_path):
    def written(text: str):
        (tmp_path / "home.yaml").write_text(text)
        return tmp_path / "home.yaml"

    return written


def test_defaults_lie_below_yaml_below_flags_below_set(written):
    path = written("rate: 1e-4\ndoors: 2\npet: {lives: 7}")
    found = Home.load(yaml_path=path, flags={"doors": 3, "pet.lives": 8}, sets=["pet.lives=1"])
    assert found == Home(rate=1e-4, doors=3, pet=Cat(lives=1))
    assert Home.load() == Home()


def test_another_kind_starts_from_its_own_defaults(written):
    path = written("pet: {kind: dog, name: rex, tricks: [sit]}")
    assert Home.load(yaml_path=path, flags={"pet.kind": "cat"}).pet == Cat()
    assert Home.load(yaml_path=path, sets=["pet.name=max"]).pet == Dog(name="max", tricks=("sit",))


def test_what_is_written_reads_back(written):
    home = Home(pet=Dog(name="rex", tricks=("sit",)), rate=3e-7)
    assert Home.load(yaml_path=written(home.to_yaml())) == home


def test_differences_are_named_by_key():
    assert differences(Home(), Home(doors=2, pet=Cat(lives=3))) == {"pet.lives": (9, 3), "doors": (1, 2)}
    assert differences(Home(), Home()) == {}


CASES = {
    "typo": (["pet.live=3"], "`pet.live` is not a known key (--set): got 3", "did you mean `pet.lives`?"),
    "no resemblance": (["zzz=3"], "`zzz` is not a known key", "known keys: pet, guest, rate, doors, size"),
    "kind": (["pet.kind=dgo"], "`pet.kind` has no such kind (--set): got 'dgo'", "did you mean `dog`?"),
    "missing": (["pet.kind=dog"], "`pet.name` is needed and was not given", ""),
    "missing kind": (["guest.lives=3"], "`guest.kind` is needed and was not given", ""),
    "range": (["rate=-1"], "`rate` (--set): expected greater than 0: got -1", ""),
    "type": (["doors=many"], "`doors` (--set): expected a valid integer", "got 'many'"),
    "one of two forms": (["size=0"], "`size` (--set): expected greater than 0: got 0", ""),
    "part of the other form": (["size=[2,0]"], "`size.1` (--set): expected greater than 0: got 0", ""),
    "no number": (["rate=.inf"], "`rate` (--set): expected a finite number: got inf", ""),
    "own check": (["doors=13"], "13 doors are unlucky", "hint: take 12"),
    "form": (["doors"], "`--set doors` is not of the form key=value", "for instance"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_setting_is_explained(name):
    sets, message, hint = CASES[name]
    with pytest.raises(ConfigError) as error:
        Home.load(sets=sets)
    assert message in str(error.value)
    assert hint in str(error.value)
    assert "constrained" not in str(error.value)


def test_settings_of_no_kind_ask_for_one():
    class Street(Config):
        guest: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None

    assert Street.load(sets=["guest={kind: cat, lives: 3}"]).guest == Cat(lives=3)
    with pytest.raises(ConfigError, match=r"`guest.kind` is needed and was not given \(--set\): got {'lives': 3}"):
        Street.load(sets=["guest.lives=3"])


def test_a_kind_may_be_called_as_one_of_its_own_keys():
    class Box(Config):
        kind: Literal["box"] = "box"
        box: str = ""

    class Shed(Config):
        inside: Annotated[Box | Cat, Field(discriminator="kind")] = Box()

    for key, said in (("lid", "`inside.lid` is not a known key (--set): got 1"), ("box", "`inside.box` (--set): ")):
        with pytest.raises(ConfigError) as error:
            Shed.load(sets=["inside.box=deep", f"inside.{key}=1"])
        assert error.value.message.startswith(said)


def test_all_problems_are_told_together_with_where_they_come_from(written):
    path = written("door: 2\nrate: fast")
    with pytest.raises(ConfigError) as error:
        Home.load(yaml_path=path, flags={"pet.lives": "x"})
    for part in ("3 problems", f"`door` is not a known key ({path})", f"`rate` ({path})", "`pet.lives` (--lives)"):
        assert part in error.value.message
    assert error.value.hint == "did you mean `doors`?"


@pytest.mark.parametrize(("text", "message"), [("- a", "must hold keys and values: got list"), ("a: [", "is not YAML")])
def test_a_file_that_is_no_config_is_explained(written, text, message):
    with pytest.raises(ConfigError, match=message):
        Home.load(yaml_path=written(text))
