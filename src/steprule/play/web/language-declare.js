// Declarations: hyperparameters, slots, choices, and what a signature says with them; rule/declare.py and signature.py.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { rank, Refusal, number, List, Sequence, compare } = language;
  const { told, phrase, general, repr } = language.text;

  const known = (value) => value !== null && value !== undefined;

  /** A hyperparameter: its value and its legal range. */
  class Hyper {
    kind = "Hyper";
    constructor(given) {
      const none = { name: "", value: null, low: null, high: null, above: null, below: null, shared: false };
      Object.assign(this, none, { only: null, given: false, told: false, tune: null }, given);
    }
    with(changes) {
      return new Hyper({ ...this, ...changes });
    }
    interval() {
      const spelled = (value) => general(number(value), 6);
      const left = known(this.low) ? `[${spelled(this.low)}` : known(this.above) ? `(${spelled(this.above)}` : "(−∞";
      const right = known(this.high) ? `${spelled(this.high)}]` : known(this.below) ? `${spelled(this.below)})` : "∞)";
      return `${left}, ${right}`;
    }
    admits(value) {
      const outside = (bound, wrong) => known(bound) && wrong(number(bound));
      return (
        this.told ||
        (Number.isFinite(value) &&
          !outside(this.low, (end) => value < end) &&
          !outside(this.high, (end) => value > end) &&
          !outside(this.above, (end) => value <= end) &&
          !outside(this.below, (end) => value >= end))
      );
    }
    example() {
      const ends = [this.low, this.above, this.high, this.below].filter(known).map(number);
      const mean = ends.reduce((sum, end) => sum + end, 0) / ends.length;
      const inner = ends.length ? [mean, ...ends.map((end) => end + 1), ...ends.map((end) => end - 1)] : [];
      return [0.1, ...ends, ...inner].find((value) => this.admits(value)) ?? NaN;
    }
    /** Return a value as a float, or throw the one error that words a bad hyperparameter. */
    check(value, owner) {
      const own = number(value);
      if (this.admits(own)) return own;
      const shown = value === null ? general(this.example(), 6) : repr(value);
      const values = { name: this.name, owner, value: shown, interval: this.interval() };
      throw new Refusal(told(value === null ? "value missing" : "value outside", values));
    }
  }

  class Slot {
    kind = "Slot";
    constructor(given) {
      Object.assign(this, { name: "", rank: rank.of("ELEMENT"), init: 0, low: null, wide: false }, given);
    }
    named(name) {
      return new Slot({ ...this, name });
    }
  }

  class Choice {
    kind = "Choice";
    constructor(options) {
      this.options = options;
    }
  }

  function checked(declared, value) {
    if (!known(value)) return declared;
    try {
      declared.check(value, "this declaration");
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      throw new Refusal({ what: error.what.replaceAll("``", "the default"), fix: error.fix });
    }
    return declared;
  }

  function searched(declared, tune) {
    if (!known(tune)) return null;
    try {
      const ends = tune instanceof Sequence ? tune.items : [];
      const [low, high] = ends.map((end) => declared.check(end, ""));
      if (ends.length === 2 && low < high) return [low, high];
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
    const usual = declared.admits(1e-4) && declared.admits(0.1) ? phrase("usual") : "";
    throw new Refusal(told("tune", { tune: repr(tune), interval: declared.interval(), usual }));
  }

  const keywords = (text) => text.split(" ").map((name) => ({ name, kind: "keyword", value: null }));
  const HYPER = [{ name: "value", kind: "any", value: null }, ...keywords("low high above below shared only tune")];

  /** Declare a hyperparameter with its legal range. */
  language.declaredHyper = function (given, named) {
    const own = Object.fromEntries(language.bind("hyper", HYPER, given, named));
    for (const name of ["low", "high", "above", "below"]) checked(new Hyper({ name }), own[name]);
    const declared = new Hyper({ ...own, tune: null, shared: own.shared === true });
    const twice = (known(own.low) && known(own.above)) || (known(own.high) && known(own.below));
    if (Number.isNaN(declared.example()) || twice) {
      const [low, above, high, below] = [own.low, own.above, own.high, own.below].map(repr);
      throw new Refusal(told("no range", { low, above, high, below }));
    }
    return checked(declared, own.value).with({ tune: searched(declared, own.tune) });
  };

  const SLOT = [
    { name: "init", kind: "keyword", value: 0 },
    { name: "rank", kind: "keyword", value: "element" },
    ...keywords("low dtype"),
  ];

  function starts(init, word) {
    return (init === "theta" && word === "element") || (init === "identity" && ["left", "right"].includes(word));
  }

  /** Declare a state slot. */
  language.declaredSlot = function (given, named) {
    const { init, rank: word, low, dtype } = Object.fromEntries(language.bind("slot", SLOT, given, named));
    if (known(dtype) && dtype !== "float32") throw new Refusal(told("slot dtype", { dtype: repr(dtype) }));
    const ranks = language.tables().words;
    if (!ranks.has(word))
      throw new Refusal(told("slot rank", { rank: repr(word), ranks: [...ranks.keys()].join(", ") }));
    const own = rank.of(ranks.get(word));
    if (typeof init === "string" && !starts(init, word)) {
      const small = rank.apart(own)
        ? phrase("matrix slot")
        : phrase("small slot", { rank: repr(word), each: rank.each(own) });
      throw new Refusal(told("slot init", { init: repr(init), few: word === "element" ? "" : small }));
    }
    if (typeof init !== "string") checked(new Hyper({ name: "init" }), init);
    const value = typeof init === "string" ? init : number(init);
    if (known(low) && (number(low) !== 0 || (typeof value === "number" && value < 0))) {
      throw new Refusal(told("slot low", { low: repr(low), init: repr(value) }));
    }
    return new Slot({ rank: own, init: value, low: known(low) ? number(low) : null, wide: known(dtype) });
  };

  language.declaredChoice = function (given) {
    if (!given.length) throw new Refusal(told("no options", {}));
    return new Choice(given);
  };

  // Signatures ----------------------------------------------------------------------------------------------

  function refuseReserved(name, reserved, called) {
    if (!reserved.includes(name)) return;
    const { asked } = language.tables();
    const names = reserved
      .filter((one) => !asked.has(one))
      .sort()
      .join(", ");
    const own = asked.has(name) ? phrase("asked", { name, meaning: asked.get(name) }) : phrase("reserved", { names });
    throw new Refusal(told("reserved", { name, fix: own }), language.definition(called));
  }

  function spelled(value) {
    if (value instanceof Choice) return `choice(${value.options.map(repr).join(", ")})`;
    if (value instanceof Hyper) return `hyper(${repr(value.value)})`;
    if (typeof value === "boolean") return `choice(${repr(value)}, ${repr(!value)})`;
    return value === null || ["bigint", "number"].includes(typeof value) ? repr(value) : `choice(${repr(value)})`;
  }

  function slotOf(one, called) {
    refuseReserved(one.name, steprule.facts.reserved, called);
    if (one.value === undefined) return new Slot({ name: one.name });
    if (one.value instanceof Slot) return one.value.named(one.name);
    const own = `${one.name}=${spelled(one.value)}`;
    const values = { spelled: own, name: called.name };
    throw new Refusal(told("among arrays", values), language.definition(called));
  }

  function hyperOf({ name, value }, called) {
    refuseReserved(name, steprule.facts.reserved_hypers, called);
    if (value instanceof Choice) return value;
    if (value instanceof Hyper) return value.with({ name });
    if (!known(value)) return new Hyper({ name });
    const isNumber = ["bigint", "number"].includes(typeof value);
    const own = isNumber ? number(value) : NaN;
    if (Number.isFinite(own)) return new Hyper({ name, value: own });
    const fix = isNumber ? phrase("finite default") : phrase("variant default", { name, spelled: spelled(value) });
    throw new Refusal(told("default", { name, default: repr(value), fix }), language.definition(called));
  }

  function refuseArguments(called, given) {
    const more = given === 3;
    const starred = called.parameters.some((one) => one.kind === "*" || one.kind === "**");
    const values = {
      name: called.name,
      new: more ? phrase("new parameter") : "",
      stars: starred ? phrase("stars") : "",
    };
    throw new Refusal(told("arguments", { ...values, short: more ? "new, " : "" }), language.definition(called));
  }

  /** Return what a rule's or transform's signature declares. */
  language.readSignature = function (called, given) {
    if (!(called instanceof language.Function)) throw new Refusal(told("no function", { given: repr(called) }));
    const list = called.parameters;
    const arrays = list.filter((one) => one.kind === "any" || one.kind === "positional");
    const starred = list.some((one) => one.kind === "*" || one.kind === "**");
    if (starred || arrays.length < given) refuseArguments(called, given);
    const { asked } = language.tables();
    for (const one of list)
      if (asked.has(one.name) && one.value !== undefined) refuseReserved(one.name, steprule.facts.reserved, called);
    const named = list.filter((one) => one.kind === "keyword");
    const first = `${arrays[1].name}_${arrays[0].name}`;
    const wantsFirst = named.some((one) => one.name === first && one.value === undefined);
    const declared = named.filter((one) => !asked.has(one.name) && !(wantsFirst && one.name === first));
    const all = declared.map((one) => [one.name, hyperOf(one, called)]);
    const slots = arrays
      .map((one) => one)
      .slice(given)
      .map((one) => slotOf(one, called));
    return {
      arrays: arrays.map((one) => one.name),
      slots,
      hypers: new Map(all.filter(([, one]) => one instanceof Hyper)),
      choices: new Map(all.filter(([, one]) => one instanceof Choice)),
      wantsStep: named.some((one) => one.name === "t"),
      wantsLoss: named.some((one) => one.name === "loss"),
      wantsFirst,
      first,
    };
  };

  Object.assign(language, { Hyper, Slot, Choice });
  language.same = (a, b) => compare("==", a, b) === true;
  language.listOf = (items) => new List(items);
})((globalThis.steprule ??= {}));
