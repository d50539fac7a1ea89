// The numbers of a method: a slider and a field for every hyperparameter, from its declared range.
(function (steprule) {
  "use strict";
  const { element } = steprule, SMOOTH = 1000;

  /**
   * Return how a slider shows a hyperparameter: by the logarithm where it can be any size, else evenly.
   * @param {object} hyper of a rule
   */
  steprule.scale = function (hyper) {
    const { value, low, high, tune } = hyper, around = Math.abs(value) || 1;
    if (low === 0 && high == null) {
      const least = Math.min(around / 1e3, tune?.[0] ?? Infinity), most = Math.max(around * 1e2, tune?.[1] ?? 0);
      const [a, b] = [Math.log10(least), Math.log10(most)];
      return { to: (number) => SMOOTH * Math.min(1, Math.max(0, (Math.log10(number) - a) / (b - a))), from: (place) => +(10 ** (a + ((b - a) * place) / SMOOTH)).toPrecision(3) };
    }
    const least = low ?? Math.min(-2 * around, (high ?? 0) - 4 * around), most = high ?? Math.max(2 * around, least + 4 * around);
    const clear = (number) => (hyper.openLow && number <= least) || (hyper.openHigh && number >= most) ? undefined : number;
    const inside = (number) => clear(number) ?? (number <= least ? least + (most - least) / SMOOTH : most - (most - least) / SMOOTH);
    return { to: (number) => (SMOOTH * (number - least)) / (most - least), from: (place) => inside(+(least + ((most - least) * place) / SMOOTH).toPrecision(4)) };
  };

  /** Write the declared range as mathematics does. */
  steprule.interval = (hyper) =>
    `${hyper.low == null || hyper.openLow ? "(" : "["}${hyper.low ?? "−∞"}, ${hyper.high ?? "∞"}${hyper.high == null || hyper.openHigh ? ")" : "]"}`;

  // Options are words, truth values or numbers; what a link cannot carry is not offered.
  const plain = ({ name, options, value }) => ({ name, value, options: options.filter((one) => typeof one === "boolean" || typeof one === "string") });

  // The letter of a hyperparameter, with its index below.
  function symbol(name) {
    const [letter, index] = steprule.language.symbolOf(name, false).split("_");
    return index && letter.length === 1 ? [letter, element("sub", {}, index)] : [letter.length > 2 ? "" : letter];
  }

  /** The sliders in a box. */
  steprule.Numbers = class {
    /**
     * @param {HTMLElement} box
     * @param {(name: string, value: number) => void} changed
     * @param {(name: string, option: unknown) => void} chosen
     */
    constructor(box, changed, chosen) {
      this.box = box;
      this.changed = changed;
      this.chosen = chosen;
      this.rows = new Map();
      this.made = "";
    }

    /** Tell why a method does not run, in the three parts of an error, or nothing. */
    why(one, word) {
      const told = one?.failed ? [{ what: one.failed.what ?? one.failed.message, fix: one.failed.fix }] : one && !one.rule && one.entry.rule !== "mine" ? one.errors : [];
      const none = one && !one.rule && !one.failed && !one.errors.length && one.entry.rule !== "mine" ? [{ what: word("unknown-rule", one.entry.rule) }] : [];
      this.box.querySelector(":scope > .error")?.remove();
      for (const { what, fix } of [...told, ...none].slice(0, 1))
        this.box.prepend(element("div", { class: "error", role: "status" }, element("p", { class: "where" }, one.title), element("p", { class: "what" }, what), ...(fix ? [element("p", { class: "fix" }, fix)] : [])));
    }

    /** Show the variants and hyperparameters of a rule with their numbers. Rows stay while the declarations do. */
    show(rule, numbers, key, word) {
      const hypers = rule?.hypers ?? [], choices = (rule?.choices ?? []).map(plain), made = JSON.stringify([key, hypers, choices, word("outside")]);
      if (made !== this.made) {
        this.made = made;
        this.rows.clear();
        this.box.replaceChildren(...choices.map((one) => this.variant(one)), ...hypers.map((hyper) => this.row(hyper, word)));
      }
      for (const [name, row] of this.rows) row.set(numbers[name]);
    }

    // Which of its formulas a rule is: words or truth values that its signature lists.
    variant({ name, options, value }) {
      const id = `choice-${name}`, select = element("select", { id }, ...options.map((one, place) => element("option", { value: place }, String(one))));
      select.value = options.indexOf(value);
      select.addEventListener("change", () => this.chosen(name, options[+select.value]));
      return element("div", { class: "number" }, element("label", { for: id }, element("i", {}), element("span", {}, name)), select);
    }

    row(hyper, word) {
      const id = `number-${hyper.name}`, scale = steprule.scale(hyper), { name } = hyper;
      const label = element("label", { for: id }, element("i", {}, ...symbol(name)), element("span", {}, name));
      const slider = element("input", { type: "range", min: 0, max: SMOOTH, step: 1, "aria-label": name, tabIndex: 0 });
      const field = element("input", { type: "text", inputMode: "decimal", id, autocomplete: "off", spellcheck: false, "aria-describedby": `${id}-told` });
      const told = element("p", { class: "told", id: `${id}-told`, role: "status" });
      const set = (value) => {
        if (document.activeElement !== slider) slider.value = scale.to(value);
        if (document.activeElement !== field) field.value = String(value);
        slider.setAttribute("aria-valuetext", String(value));
      };
      slider.addEventListener("input", () => this.changed(name, scale.from(+slider.value)));
      const read = () => {
        const value = Number(field.value.trim().replace(",", ".").replace("−", "-")), right = field.value.trim() !== "" && steprule.admits(hyper, value);
        field.setAttribute("aria-invalid", String(!right));
        told.textContent = right ? "" : word("outside", name, steprule.interval(hyper));
        if (right) this.changed(name, value);
      };
      field.addEventListener("input", read);
      field.addEventListener("keydown", (event) => {
        const way = { ArrowUp: 1, ArrowDown: -1 }[event.key];
        if (!way) return;
        event.preventDefault();
        field.value = String(scale.from(Math.min(SMOOTH, Math.max(0, Math.round(scale.to(Number(field.value)) + 10 * way)))));
        read();
      });
      this.rows.set(name, { set });
      return element("div", { class: "number" }, label, slider, field, told);
    }
  };
})(globalThis.steprule ??= {});
