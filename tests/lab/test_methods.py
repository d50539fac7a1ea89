"""Every optimiser as an arm of a comparison: how it is named, built, set, clipped and refused."""

import dataclasses
import inspect
import pickle
from dataclasses import replace

import pytest
import torch

import steprule as sr
from steprule.errors import HyperparameterError, StepruleError
from steprule.lab.clips import CLIPS, Clip
from steprule.lab.methods import Method, accepted, crossed, value_of
from steprule.lab.optimizers import CLASSES, NAMES, OPTIONS, TITLES, find

pytestmark = pytest.mark.null

FOREIGN = """
import torch
import steprule as sr

@sr.rule
def signed(theta, g, m, *, lr=3e-3, beta=0.9):
    m = beta * m + (1 - beta) * g
    return theta - lr * sr.sign(m), m

class Plain(torch.optim.Optimizer):
    def __init__(self, params, lr, strength=1.0):
        super().__init__(params, {"lr": lr, "strength": strength})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * group["strength"] * parameter.grad

class Loose(Plain):
    def __init__(self, params, lr=0.5, **hyper):
        super().__init__(params, lr, **hyper)

class Rateless(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, {})

class Nothing:
    def __init__(self, params, lr=0.1):
        pass

def wrapped(params, lr=0.2):
    return torch.optim.SGD(params, lr=lr)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FOREIGN)
    return str(path)


def network():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def stepped(method, lr=0.1, times=3):
    """The parameters after a few steps on gradients that do not depend on them."""
    model = network()
    optimizer = method.optimizer(model, lr)
    for time in range(times):
        for place, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, 3.0 - place - time)
        if method.clips_outside:
            method.clip(model.parameters())
        told = {"loss": 1.0} if method.kind.is_ours and not method.needs_closure else {}
        optimizer.step(*[lambda: None] * method.needs_closure, **told)
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_every_class_of_the_library_has_a_name_or_is_the_boards_namesake():
    classes = {name for name, value in vars(sr.optim).items() if inspect.isclass(value)} & set(sr.optim.__all__)
    named = {kind.__name__ for kind in CLASSES.values()}
    assert classes - named - {"Optimizer", "Explanation"} == {"SGD", "Adagrad", "RMSprop", "Adam"}
    assert list(NAMES[: len(TITLES)]) == list(TITLES)
    assert {"adamw", "nadam", "lion", "ademamix", "lamb"} <= set(NAMES)


@pytest.mark.cpu
@pytest.mark.parametrize("name", [*NAMES, "torch.optim:AdamW", "torch.optim:SGD", "steprule.optim:Adam"])
def test_every_optimiser_steps_and_knows_its_default(name):
    method = Method(name)
    method.check(network(), 0.1)
    assert any(not torch.equal(*pair) for pair in zip(stepped(method), network().parameters(), strict=True))
    assert method.default_lr is not None
    assert method.default_lr > 0
    account = method.explain()
    assert account is None if name.startswith("torch") else account.formula
    assert pickle.loads(pickle.dumps(method)) == method  # noqa: S301


def test_the_default_learning_rate_is_the_signatures():
    assert Method("adam").default_lr == 1e-3
    assert Method("torch.optim:SGD").default_lr == 1e-3
    assert Method("adadelta").default_lr == 1.0
    assert Method("lion").default_lr == 1e-4


@pytest.mark.cpu
def test_optimisers_of_a_file_take_part(file):
    assert Method(f"{file}:Plain").default_lr is None
    assert Method(f"{file}:wrapped").default_lr == 0.2
    assert torch.equal(stepped(Method(f"{file}:wrapped"))[0], stepped(Method("torch.optim:SGD"))[0])
    doubled = Method(f"{file}:Plain", (("strength", 2.0),))
    assert torch.allclose(stepped(doubled, 0.1)[0], stepped(Method("sgd"), 0.2)[0])
    rule = Method(f"{file}:signed", (("beta", 0.5),))
    assert rule.default_lr == 3e-3
    assert "sign" in rule.explain().formula
    assert not rule.clips_outside
    rule.check(network(), 0.1)
    assert find(f"{file}:signed").target is find(f"{file}:signed").target


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("adamm", "none of gd, sgd.*module:Class"),
        ("torch.optim:Adamm", "has no 'Adamm'"),
        ("no_such_module:Adam", "no module 'no_such_module'"),
        ("nowhere.py:Adam", "cannot read nowhere.py"),
        ("torch.optim:", "names nothing"),
        ("math:pi", "is no optimiser"),
        ("math:sqrt", "takes no learning rate"),
        ("{file}:missing", "it has .*Plain"),
    ],
)
def test_what_is_no_optimiser_is_refused(name, told, file):
    with pytest.raises(StepruleError) as error:
        find(name.format(file=file))
    assert __import__("re").search(told, str(error.value).replace("\n", " "))


def test_a_file_that_fails_is_told_of(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import torch\nraise RuntimeError('gone')\n")
    with pytest.raises(StepruleError, match=r"broken.py cannot be loaded: RuntimeError: gone"):
        find(f"{path}:Adam")
    path.write_text("Adam = __import__('torch').optim.Adam\n")
    assert find(f"{path}:Adam").default_lr == 1e-3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torch.optim:LBFGS", "closure"),
        ("torch.optim:SparseAdam", "dense gradients"),
        ("steprule:Optimizer", "rule"),
        ("{file}:Nothing", "no torch.optim.Optimizer"),
        ("{file}:Rateless", "no learning rate"),
    ],
)
def test_what_cannot_train_is_refused_before_any_work(name, told, file):
    with pytest.raises(StepruleError, match=told):
        Method(name.format(file=file)).check(network(), 0.1)


@pytest.mark.parametrize(
    ("name", "key", "value", "told"),
    [
        ("adamw", "beta1", 0.9, "it takes betas, eps, weight_decay"),
        ("adamw", "nonfinit", "skip", "nonfinite"),
        ("adamw", "lr", 0.9, "no hyperparameter 'lr'"),
        ("adamw", "maximize", True, "no hyperparameter"),
        ("gd", "beta", 0.9, "none besides the learning rate"),
        ("adamw", "betas", 0.9, "2 numbers"),
        ("adamw", "betas", (0.9, "x"), "2 numbers"),
        ("adamw", "amsgrad", 1, "true or false"),
        ("torch.optim:SGD", "momentum", "high", "not a number"),
    ],
)
def test_a_wrong_hyperparameter_is_refused(name, key, value, told):
    with pytest.raises(HyperparameterError, match=told):
        find(name).check_value(key, value)


def test_every_option_of_the_library_can_be_set_on_every_optimiser_of_ours():
    """The names come from the fields: a new option needs no line in the lab."""
    fields = {field.name: field.default for field in dataclasses.fields(sr.optim.Options)}
    assert {name: value for name, value in fields.items() if name not in {"clip", "capturable", "watch"}} == OPTIONS
    for name in ("adam", "adamw", "steprule.optim:SGD", "nesterov-implicit"):
        assert find(name).options == OPTIONS
        assert not OPTIONS.keys() & find(name).takes.keys()
        for option, value in OPTIONS.items():
            if value is not None:
                find(name).check_value(option, value)
    assert not find("torch.optim:AdamW").options


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_an_option_reaches_the_optimiser_and_what_is_told_of_it(name):
    method = Method(name, (("nonfinite", "skip"), ("eps" if name == "adamw" else "beta", 0.5)))
    assert method.optimizer(network().parameters(), 0.1).nonfinite == "skip"
    assert "nonfinite=skip" in method.key
    assert "nonfinite=skip" in method.settings
    assert method.made_of() == Method(name, method.hyper[1:]).made_of()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [("nonfinite", "ignore", "not allowed"), ("backend", "cuda", "not allowed"), ("compensated", 1, "true or false")],
)
def test_a_wrong_value_of_an_option_is_refused(key, value, told):
    for name in ("adam", "adamw"):
        with pytest.raises(HyperparameterError, match=told) as error:
            find(name).check_value(key, value)
        assert error.value.fix


def test_what_a_signature_leaves_open_is_passed_on(file):
    find(f"{file}:Loose").check_value("strength", 3.0)
    with pytest.raises(HyperparameterError, match="no hyperparameter 'lr'"):
        find(f"{file}:Loose").check_value("lr", 3.0)
    assert Method(f"{file}:Loose", (("strength", 3.0),)).optimizer(network().parameters(), 0.1)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.9,0.95", (0.9, 0.95)), ("1e-3", 1e-3), ("true", True), ("False", False), ("board", "board"), ("3", 3)],
)
def test_values_are_read_as_they_are_typed(text, value):
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_the_key_says_everything_that_was_set():
    clip = Clip("clip_global_norm", 1.0)
    assert Method("adam").key == "adam"
    assert Method("adam", schedule="cosine", clips=(clip,)).key == "adam · cosine · clip 1"
    assert Method("adamw", (("betas", (0.9, 0.95)),), (Clip("clip_value", 0.5),)).key == (
        "adamw · betas=0.9,0.95 · clip_value 0.5"
    )
    arms = crossed([Method("sgd"), Method("adam")], ("constant", "cosine"), (None, 1.0))
    assert len({arm.key for arm in arms}) == len(set(arms)) == 8
    assert [arm.key for arm in arms[:4]] == ["sgd", "sgd · clip 1", "sgd · cosine", "sgd · cosine · clip 1"]
    assert crossed([Method("sgd")]) == (Method("sgd"),)


def test_shared_hyperparameters_reach_those_that_take_them():
    assert accepted("adam", {"beta": 0.1, "eps": 1e-3, "beta1": 0.5}) == (("beta1", 0.5), ("eps", 1e-3))
    assert accepted("adamw", {"beta": 0.1, "eps": 1e-3}) == (("eps", 1e-3),)


@pytest.mark.cpu
@pytest.mark.parametrize("clips", [(name,) for name in CLIPS] + [("clip_value", "clip_global_norm")], ids="+".join)
def test_a_clipping_outside_the_step_is_the_one_inside(clips):
    chosen = tuple(Clip(name, 0.7) for name in clips)
    outside = stepped(Method("torch.optim:SGD", clips=chosen))
    for inside in (Method("sgd", clips=chosen), Method("steprule.optim:SGD", clips=chosen)):
        assert not inside.clips_outside
        for one, other in zip(outside, stepped(inside), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bound", [0.5, 50.0])
def test_the_usual_clipping_is_torchs_bit_for_bit(bound):
    model = network()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    torch.nn.utils.clip_grad_norm_(model.parameters(), bound)
    Clip("clip_global_norm", bound).apply(ours)
    assert all(torch.equal(parameter.grad, one) for parameter, one in zip(model.parameters(), ours, strict=True))


def test_a_parameter_without_a_gradient_is_not_clipped():
    model = network()
    model.weight.grad = torch.ones_like(model.weight)
    method = replace(Method("torch.optim:SGD"), clips=tuple(Clip(name, 0.5) for name in CLIPS))
    method.clip(model.parameters())
    assert model.bias.grad is None
    assert torch.isfinite(model.weight.grad).all()
