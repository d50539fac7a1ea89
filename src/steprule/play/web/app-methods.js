// The list of methods: which run, how each is drawn, what its loss is, and the table of their values.
(function (steprule) {
  "use strict";
  const { element, keyOf, short } = steprule;

  function icon() {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    const path = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    path.setAttribute("d", "M1 4h8m4 0h2M1 12h2m4 0h8M11 2v4M5 10v4");
    return svg;
  }

  /** What a method is called: the rule's name, and the mark of its clipping. */
  steprule.titleOf = function (one, word) {
    const mark = steprule.clips[one.clip]?.mark, name = one.rule === "mine" ? word("mine") : one.rule.split(".").at(-1);
    return [name, ...Object.values(one.choices ?? {}), ...(mark ? [mark] : [])].join(" ");
  };

  /** The list in a box. */
  steprule.Methods = class {
    /**
     * @param {HTMLElement} box
     * @param {{toggle: function, focus: function}} actions each called with an entry
     */
    constructor(box, actions) {
      this.list = box.querySelector(".list");
      this.table = document.querySelector(".values table");
      this.actions = actions;
      this.rows = new Map();
      this.made = "";
    }

    // The board's methods are always on the list; others while they run.
    entries(state) {
      const keys = state.picked.map(keyOf);
      const board = steprule.board.filter((rule) => !keys.includes(rule)).map((rule) => ({ rule, clip: "none", hypers: {} }));
      const place = (one) => (one.rule === "mine" ? -1 : steprule.board.includes(one.rule) ? steprule.board.indexOf(one.rule) : 99);
      return [...state.picked, ...board].map((one, at) => [one, place(one), at]).sort((a, b) => a[1] - b[1] || a[2] - b[2]).map(([one]) => one);
    }

    /** Show the list. */
    show(state, word) {
      const entries = this.entries(state), keys = state.picked.map(keyOf), made = JSON.stringify([entries.map(keyOf), keys.filter((key) => !steprule.board.includes(key)), state.lang]);
      if (made !== this.made) {
        this.made = made;
        const kept = document.activeElement?.id;
        this.rows.clear();
        this.list.replaceChildren(...entries.map((one) => this.row(one, keys, word)));
        if (kept && this.list.parentNode.contains(document.getElementById(kept))) document.getElementById(kept).focus();
      }
      for (const [key, row] of this.rows) {
        row.box.checked = keys.includes(key);
        row.place.classList.toggle("on", row.box.checked);
        row.place.classList.toggle("focus", key === state.focus);
        row.button.setAttribute("aria-pressed", String(key === state.focus));
      }
    }

    row(one, keys, word) {
      const key = keyOf(one), title = steprule.titleOf(one, word);
      const box = element("input", { type: "checkbox", id: `run-${key}` }), output = element("output", { for: `run-${key}` });
      const button = element("button", { type: "button", id: `focus-${key}`, title: word("adjust", title), "aria-label": word("adjust", title) }, icon());
      box.addEventListener("change", () => this.actions.toggle(one, box.checked));
      button.addEventListener("click", () => this.actions.focus(one));
      const label = element("label", {}, box, steprule.sample(steprule.look(key, keys)), element("span", { class: "name" }, title), output);
      const place = element("div", { class: "method" }, label, button);
      this.rows.set(key, { box, output, button, place, one });
      return place;
    }

    /** Show the losses at an iteration. */
    losses(trajectories, t, word) {
      const found = new Map(trajectories.map((one) => [one.key, one]));
      for (const [key, { output }] of this.rows) {
        const one = found.get(key);
        output.textContent = !one ? "" : !one.rule ? word("invalid") : one.diverged && t > one.end ? word("diverged", one.end + 1) : short(one.loss[Math.min(t, one.end)]);
      }
    }

    /** Fill the table of values at an iteration. */
    fill(trajectories, t, word) {
      const head = ["method", "point", "loss", "norm", "length"].map((key) => element("th", { scope: "col" }, word(key)));
      const rows = trajectories.filter((one) => one.rule).map((one) => {
        const at = Math.min(t, one.end), numbers = Object.entries(one.hypers).map(([name, value]) => `${name}=${short(value)}`).join(", ");
        const cells = [`(${short(one.at[2 * at], 5)}, ${short(one.at[2 * at + 1], 5)})`, short(one.loss[at], 5), short(one.norm[at], 5), short(one.length[at], 5)];
        return element("tr", {}, element("th", { scope: "row" }, `${one.title}: ${numbers}`), ...cells.map((text) => element("td", {}, text)));
      });
      this.table.replaceChildren(element("caption", { class: "unseen" }, word("of-steps", t, trajectories[0] ? trajectories[0].loss?.length - 1 : "")),
        element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
    }
  };
})(globalThis.steprule ??= {});
