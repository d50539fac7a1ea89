"""What the lecture says is true of the numbers that the page computes, in English and in Russian."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from engine import engine

from steprule.play.data import packed
from steprule.play.scripts import text

pytestmark = pytest.mark.null

SCRIPTS = (
    "words", "elements", "state", "random", "theory", "data-digits", "data-model", "data-training", "data-worker",
    "words-data", "rules", "app-surfaces", "app-runs", "scenes",
)  # fmt: skip
HARNESS = """
globalThis.lecture = {
  scene: (id) => steprule.scenes.find((one) => one.id === id),
  state(id, place, more) {
    const { setup, buttons } = lecture.scene(id), { view, ...patch } = setup;
    const checked = [{ ...patch, stage: view }, place === null ? {} : buttons[place].patch, more].map(steprule.checked);
    return Object.assign({}, steprule.beginning, ...checked);
  },
  play(id, place, more) {
    const state = lecture.state(id, place, more), made = {};
    for (const entry of state.picked) {
      const one = steprule.trajectory(entry, state);
      if (one.failed || !one.rule) throw one.failed ?? new Error(one.errors[0].what);
      const { end, diverged, loss, length, norm, hypers, at, point, effect } = one, kept = 2 * end + 2;
      made[steprule.keyOf(entry)] = {
        end, diverged, hypers, at: [...at.slice(0, kept)], point: [...point.slice(0, kept)], loss: [...loss.slice(0, end + 1)],
        norm: [...norm.slice(0, end + 1)], length: [...length.slice(0, end + 1)], effect: effect.map((axis) => [...axis.slice(0, end + 1)]),
      };
    }
    return made;
  },
  learn(id, place) {
    const state = lecture.state(id, place, {}), spec = { ...SPEC, ...state.data }, made = {};
    for (const { rule } of state.picked) {
      const full = rule === "gd", built = steprule.build(`board.${rule}`).rule, hypers = { lr: state.data[`lr_${rule}`] };
      const run = new steprule.data.Training(lecture.sets, spec, { rule: built, hypers, full }), losses = [], before = [];
      while (!run.over) {
        if (run.done === run.counts.iterations) before.push(run.evaluate("train").loss);
        losses.push(run.next());
      }
      made[rule] = { losses, before, after: run.evaluate("train").loss, counts: run.counts };
    }
    return made;
  },
};
const SPEC = { hidden: 32, iterations: 1 };
lecture.sets = steprule.data.unpack(PACKED);
"""  # noqa: E501 - a script


@pytest.fixture(scope="module")
def ask():
    context = engine()
    # What draws is not asked here; the page's pieces need no document until they do.
    for name in SCRIPTS:
        context.eval(text(f"web/{name}.js") + "\n;0")
    context.eval(HARNESS.replace("PACKED", json.dumps(packed())) + "\n;0")
    return lambda expression: json.loads(context.eval(f"JSON.stringify({expression})"))


@pytest.fixture(scope="module")
def play(ask):
    """Return the trajectories of a scene, as set or after a button, as arrays by the key of each method."""

    def played(scene: str, button: int | None = None, **more: Any) -> dict[str, Any]:
        found = ask(f"lecture.play({scene!r}, {json.dumps(button)}, {json.dumps(more)})")
        for one in found.values():
            for name in ("loss", "length", "norm"):
                one[name] = np.array(one[name], dtype=float)
            for name in ("at", "point"):
                one[name] = np.array(one[name], dtype=float).reshape(-1, 2)
            one["effect"] = np.array(one["effect"], dtype=float)
        return found

    return played


def entries(rule: str, **hypers: float) -> dict[str, Any]:
    return {"rule": rule, "clip": "none", "hypers": hypers, "choices": {}}


def test_there_are_eleven_scenes_one_a_row_of_the_board_and_each_can_be_set(ask):
    scenes = ask("steprule.scenes")
    assert [scene["row"] for scene in scenes] == [str(row) for row in range(1, 12)]
    assert len({scene["id"] for scene in scenes}) == 11
    for scene in scenes:
        for place in (None, *range(len(scene["buttons"]))):
            state = ask(f"lecture.state({scene['id']!r}, {json.dumps(place)}, {{}})")
            focus = ask(f"{json.dumps(state['picked'])}.map(steprule.keyOf)")
            assert state["focus"] in focus
        assert scene["buttons"]
        read = f"steprule.build({json.dumps(scene['setup']['text'])})"
        assert ask(f"(({{rule, errors}}) => [rule.latex, errors])({read})")[1] == []
        assert all(ask(f"steprule.checked({json.dumps(one['patch'])})") for one in scene["buttons"])


def test_every_text_is_there_in_english_and_in_russian(ask):
    for scene in ask("steprule.scenes"):
        texts = [scene["title"], scene["watch"], scene["try"], *(one["label"] for one in scene["buttons"])]
        for en, ru in ((one["en"], one["ru"]) for one in texts):
            assert not re.search("[а-яё]", en, re.IGNORECASE)
            formula = not re.search("[a-z]{3}", re.sub("bit|SGD|GD|AdaGrad|RMSProp", "", en))
            assert formula or re.search("[а-яё]", ru, re.IGNORECASE)
        for one in (scene["watch"], scene["try"]):
            # The same numbers, but for those that are words in one of them; decimal points are commas in Russian.
            numbers = [set(re.findall(r"\d[\d.,']*\d", text.replace(",", "."))) for text in one.values()]
            assert numbers[0] == numbers[1]
    words = ask("steprule.words")
    assert words["en"].keys() == words["ru"].keys()
    used = set(re.findall(r'"(data-[a-z-]+)"', "".join(text(f"web/app-data-{one}.js") for one in ("view", "pictures"))))
    known = {"data-word", "data-label"}
    ids = set(re.findall(r'id: "(data-[a-z-]+)"|class: "(data-[a-z-]+)', text("web/app-data-view.js")))
    assert used - known - {name for pair in ids for name in pair} <= words["en"].keys()


def test_gradient_descent_settles_below_two_over_l_and_lands_further_away_above(play):
    calm = play("gd")["gd"]
    assert np.all(np.diff(calm["loss"]) < 0)
    across = calm["at"][:, 1]
    assert np.all(across[1:6] * across[:5] < 0)  # it overshoots and comes back
    wild = play("gd", 0)["gd"]
    assert np.all(np.diff(np.abs(wild["at"][:, 1])) > 0)


def test_sgd_arrives_and_wanders_and_wanders_less_at_a_tenth_of_the_rate(play):
    both = play("sgd")
    assert both["gd"]["loss"][-1] < 1e-30
    wide, near = both["sgd"], play("sgd", 0)["sgd"]
    assert np.mean(wide["loss"][-400:]) > 0.1
    assert np.mean(near["loss"][-400:]) < np.mean(wide["loss"][-400:]) / 5
    first = [np.argmax(one["loss"] < 1) for one in (wide, near)]  # when it comes near
    assert 0 < first[0] < first[1] / 4
    # Far away the noise hardly matters: the paths begin alike.
    assert np.abs(wide["at"][5] - both["gd"]["at"][5]).max() < 0.6


def test_iterations_and_epochs_are_counted_as_the_text_says_and_sgd_is_far_lower(ask):
    small, large = ask("lecture.learn('epochs', null)"), ask("lecture.learn('epochs', 0)")
    assert [small[name]["counts"]["perEpoch"] for name in ("gd", "sgd")] == [1, 108]
    assert [len(small[name]["losses"]) for name in ("gd", "sgd")] == [3, 324]
    assert small["sgd"]["after"] < small["gd"]["after"] / 3
    assert large["sgd"]["counts"]["perEpoch"] == 11
    assert large["sgd"]["after"] > 2 * small["sgd"]["after"]


def test_the_final_iteration_is_one_more_on_all_digits_and_lowers_their_loss(ask):
    final, plain = ask("lecture.learn('final', null).sgd"), ask("lecture.learn('final', 0).sgd")
    assert len(final["losses"]) == len(plain["losses"]) + 1
    assert final["losses"][:-1] == plain["losses"]
    assert final["losses"][-1] == pytest.approx(final["before"][0], abs=1e-14)  # the loss of the whole training set
    assert final["before"][0] == pytest.approx(plain["after"], abs=1e-14)
    assert final["after"] < plain["after"]
    assert final["after"] > 0.95 * plain["after"]  # hardly a difference


def test_momentum_stands_a_rate_that_throws_sgd_out_and_is_sgd_at_zero_and_still_at_one(play):
    both = play("momentum")
    assert both["sgd"]["diverged"]
    assert np.abs(both["sgd"]["at"][:4, 1]).max() > 2.8  # out of the picture within a few steps
    assert both["momentum"]["loss"][-1] < 1e-6
    zero = play("momentum", 0)
    assert np.array_equal(zero["momentum"]["at"], zero["sgd"]["at"])
    still = play("momentum", 1)["momentum"]
    assert np.all(still["at"] == still["at"][0])


def test_nesterov_brakes_both_ways_and_without_a_closure_stores_the_look_ahead_points(play):
    found = play("nesterov")
    overshoot = {name: -one["at"][:, 1].min() for name, one in found.items()}
    assert max(overshoot["nesterov"], overshoot["mine"]) < overshoot["momentum"] / 3
    apart = {name: np.linalg.norm(one["at"] - found["mine"]["at"], axis=1).mean() for name, one in found.items()}
    assert apart["nesterov"] < apart["momentum"] / 3
    # Implicit: the gradient was taken where the step ended.
    np.testing.assert_allclose(found["mine"]["point"][1:], found["mine"]["at"][1:], rtol=0, atol=1e-9)
    free = play("nesterov", 0)
    exact, stored = free["nesterov"]["point"], free["mine"]["at"]
    np.testing.assert_allclose(stored[1:-1], exact[2:], rtol=0, atol=1e-12)  # the point of the next step


def test_adagrads_first_step_is_eta_its_steps_only_shrink_and_steepness_cancels(play):
    both, steep = play("adagrad"), play("adagrad", 0)
    one = both["adagrad"]
    np.testing.assert_allclose(np.abs(one["at"][1] - one["at"][0]), 0.8, rtol=1e-7)
    assert np.all(np.diff(one["effect"][:, 1:40], axis=1) <= 1e-12)  # it is a quotient, and rounded
    assert np.all(one["effect"][:, 40] < one["effect"][:, 1])
    assert steep["sgd"]["diverged"]
    np.testing.assert_allclose(steep["adagrad"]["at"], one["at"], rtol=0, atol=1e-6)


def test_rmsprop_forgets_and_needs_the_valley_along_a_coordinate(play):
    both, turned = play("rmsprop"), play("rmsprop", 0)
    one = both["rmsprop"]
    np.testing.assert_allclose(np.abs(one["at"][1] - one["at"][0]), 0.2, rtol=1e-6)  # ten times η
    least = one["effect"][:, 1:].argmin(axis=1)
    assert np.all(one["effect"][:, -1] > 1.5 * one["effect"][:, 1:].min(axis=1))
    assert np.all((least > 5) & (least < 150))
    assert np.all(np.diff(both["adagrad"]["effect"][:, 1:], axis=1) <= 0)
    assert turned["rmsprop"]["loss"][-1] > 50 * one["loss"][-1]


def test_adams_first_step_is_eta_and_without_momentum_it_is_rmsprop(play):
    both, bare = play("adam"), play("adam", 0)
    first = {name: np.abs(one["at"][1] - one["at"][0]) for name, one in both.items()}
    np.testing.assert_allclose(first["adam"], 0.05, rtol=1e-6)
    np.testing.assert_allclose(first["rmsprop"], 0.5, rtol=1e-6)
    assert np.array_equal(bare["adam"]["at"], bare["rmsprop"]["at"])


def test_normalised_clipping_steps_are_eta_long_for_ever_and_the_usual_form_settles(play):
    found, both = play("clip-one"), play("clip-one", 0)
    assert found["sgd"]["diverged"]
    assert found["sgd"]["end"] < 3
    one, usual = both["sgd:one"], both["sgd:norm"]
    np.testing.assert_allclose(found["sgd:one"]["length"][1:], 0.03, rtol=1e-12)
    assert usual["length"][-1] < 0.03 / 10
    long = np.argmax(usual["norm"] < 1)  # the first point whose gradient is shorter than 1
    assert long > 20
    np.testing.assert_allclose(usual["at"][:long], one["at"][:long], rtol=0, atol=1e-3)
    assert one["loss"][-1] < 0.02


def test_clipping_by_component_bounds_from_above_only(play):
    found, mirrored = play("clip-two"), play("clip-two", 0)
    steps = np.abs(np.diff(found["sgd:two"]["at"], axis=0))
    assert steps.max() <= 0.07 * (1 + 1e-12)
    assert np.abs(np.diff(found["sgd"]["at"], axis=0)).max() > 1
    assert np.array_equal(mirrored["sgd:two"]["at"], mirrored["sgd"]["at"])
    assert np.all(mirrored["sgd"]["at"][0] < 0)
