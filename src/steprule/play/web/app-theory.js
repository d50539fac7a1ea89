// On the quadratic: what theory says of the method in hand, beside what is seen.
(function (steprule) {
  "use strict";
  const { element, short } = steprule;

  // The rate that is seen is measured along the axes of the surface.
  function seen(one, state) {
    const turn = (state.angle * Math.PI) / 180, c = Math.cos(turn), s = Math.sin(turn), points = [];
    for (let at = 0; at <= one.end; at++) {
      const [x, y] = [one.at[2 * at], one.at[2 * at + 1]];
      points.push([c * x + s * y, c * y - s * x]);
    }
    return steprule.theory.measured(points);
  }

  function method(one) {
    const variants = { nesterov: { board: "nesterov-board", implicit: "nesterov-implicit" } };
    return one.entry.clip !== "none" ? "" : variants[one.entry.rule]?.[one.entry.choices.look_ahead] ?? one.entry.rule;
  }

  /**
   * Show theory in a box, or hide it where there is none.
   * @param {HTMLElement} box
   * @param {object|undefined} one the trajectory in hand
   * @param {object} state
   * @param {function} word
   * @param {(hypers: object) => void} use called with the best numbers
   */
  steprule.showTheory = function (box, one, state, word, use) {
    box.hidden = state.surface !== "quadratic" || !one?.rule || !steprule.theory;
    if (box.hidden) return;
    const told = steprule.theory(method(one), 1, state.kappa, one.hypers), row = (key, text) => [element("dt", {}, word(key)), element("dd", {}, text)];
    const title = element("h3", {}, word("theory"));
    if (!told) return box.replaceChildren(title, element("p", { class: "note" }, word("theory-none", one.title)));
    const rate = state.noise ? NaN : seen(one, state), { best } = told;
    const list = element("dl", {}, ...row("theory-now", short(told.factor, 4)), ...row("theory-seen", short(rate, 4)), ...row("theory-limit", short(told.limit, 4)));
    if (best) {
      const settings = [`η = ${short(best.lr, 4)}`, ...(best.beta == null ? [] : [`β = ${short(best.beta, 4)}`])].join(", ");
      list.append(...row("theory-best", `${short(best.factor, 4)} (${settings})`));
    }
    const button = best ? [element("button", { type: "button", id: "use-best", onclick: () => use({ lr: best.lr, ...(best.beta == null ? {} : { beta: best.beta }) }) }, word("theory-use"))] : [];
    const had = document.activeElement?.id === "use-best";
    box.replaceChildren(title, list, element("p", { class: "note" }, word("theory-note")), ...button);
    if (had) document.getElementById("use-best")?.focus();
  };
})(globalThis.steprule ??= {});
