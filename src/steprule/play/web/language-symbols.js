// Symbols: what a rule's arguments are while it is read; arithmetic on them makes the graph. It follows rule/symbols.py.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { make, rank, constant, product } = language;
  const { told, phrase, short, repr } = language.text;

  /** What is wrong, where and what to do; `at` is {doc, from, to, node}. */
  class Refusal extends Error {
    constructor({ what, fix }, at) {
      super(what);
      Object.assign(this, { what, fix, at: at ?? language.at });
    }
  }

  /** An error of Python's own, which becomes a refusal where a rule is read. */
  class PythonError extends Error {
    constructor(kind, message, name = "") {
      super(message);
      Object.assign(this, { kind, name_: name, at: language.at });
    }
  }

  /** A value inside a rule: an array, a hyperparameter, or an expression of them. */
  class Symbol_ {
    constructor(node) {
      this.node = node;
      this.kind = "Symbol";
    }
    repr() {
      return `<symbol ${shown(this.node, 4)}>`;
    }
  }

  function shownAttr(node) {
    const { attr } = node;
    if (attr === null) return "None";
    if (typeof attr !== "object") return repr(attr);
    const spelled = (value) => {
      const bits = value.toString(2).replaceAll("0", "").length;
      return `<Rank.${rank.name(value)}: ${Math.min(bits, 3)}>`;
    };
    return attr.kept === undefined ? `(${repr(attr.array)}, ${spelled(attr.rank)})` : spelled(attr.kept);
  }

  function shown(node, depth) {
    if (!node.inputs.length) return `${node.op}(${shownAttr(node)})`;
    const inside = depth ? node.inputs.map((child) => shown(child, depth - 1)).join(", ") : "…";
    return `${node.op}(${inside})`;
  }

  /** Remembers the nodes of one reading, and where each was first written. */
  class Recorder {
    constructor() {
      this.origins = new Map();
      this.sites = 0;
      this.gauges = new Map();
    }
    remember(node) {
      if (this.origins.has(node) || !language.at) return;
      if (this.origins.size === steprule.facts.longest) {
        throw new Refusal(told("endless", { most: steprule.facts.longest }));
      }
      this.origins.set(node, language.at);
    }
  }

  const isSymbol = (value) => value instanceof Symbol_;

  /** Return the float that Python makes of a number; NaN of what is none. */
  function number(value) {
    if (typeof value === "number") return value;
    if (value === true || value === false) return Number(value);
    return typeof value === "bigint" ? Number(value) : NaN;
  }

  /** Say what to write instead of a value that is not a number. */
  function insteadOfValue(value) {
    if (typeof value === "string") return phrase("quotes");
    if (value !== null && value.array) return phrase("held");
    if (["number", "bigint", "boolean"].includes(typeof value)) return phrase("finite");
    return value !== null && value.callable ? phrase("call it") : phrase("own arguments");
  }

  /** Return the node of a symbol or a plain number. */
  function lift(value) {
    if (isSymbol(value)) return value.node;
    const own = number(value);
    if (!Number.isFinite(own))
      throw new Refusal(told("no number", { shown: short(value), fix: insteadOfValue(value) }));
    const node = constant(own);
    language.recorder?.remember(node);
    return node;
  }

  function sidesOf(value) {
    const known = { 1: "one", 2: "rows", 3: "columns" };
    const [rows, columns] = rank.view(value, 2, 3);
    return phrase("sides", { rows: known[rows], columns: known[columns] });
  }

  function shape(node) {
    if (rank.within(node.rank, rank.of("TENSOR"))) return phrase("a number");
    return phrase("a matrix", { sides: sidesOf(node.rank) });
  }

  function checkReduction(op, given, kept) {
    if (rank.within(given, rank.of("TENSOR"))) {
      const what = phrase(given === rank.of("HOST") ? "host scalar" : "one number");
      throw new Refusal(told("nothing to reduce", { op, given: what }));
    }
    if (!rank.below(kept, given)) {
      throw new Refusal(told("reduced already", { op, kept: rank.word(kept), given: rank.word(given) }));
    }
  }

  function fitting(sides) {
    if (sides.length === 2) return phrase("fitting");
    return phrase(sides.length === 1 && sides[0] === "aa" ? "square" : "array");
  }

  function checkShapes(op, node) {
    const row = node.row;
    if (row.kind === "matrix" && product(op, node.inputs) === null) {
      const sides = row.sides.split("->")[0].split(",");
      const matrices = node.inputs.slice(0, sides.length);
      const late = node.inputs.slice(sides.length).some((one) => one.rank !== rank.of("HOST"));
      if (late) throw new Refusal(told("late numbers", { op }));
      throw new Refusal(told("no product", { op, told: matrices.map(shape).join(" and "), fix: fitting(sides) }));
    }
    if (rank.name(node.rank) === null || (row.reducer && rank.apart(node.inputs[0].rank))) {
      const apart = node.inputs.filter((child) => !rank.within(child.rank, rank.of("TENSOR"))).map(shape);
      const all = [...new Set(apart)].join(" and ");
      throw new Refusal(told("shapes", { op, told: all, fix: phrase("apart") }));
    }
  }

  function truth(op, wanted) {
    if (op === "where" && wanted) return told("truth wanted first", {});
    const sign = new Map(Object.entries({ and: "&", or: "|", not: "~" })).get(op);
    return wanted ? told("truth wanted", { sign }) : told("number wanted", { op });
  }

  /** Build the node of an operation on symbols and numbers, checking what reading can check. */
  function apply(op, operands, kept = null) {
    const row = language.tables().ops.get(op);
    const nodes = operands.map(lift);
    if (row.reducer) checkReduction(op, nodes[0].rank, kept ?? rank.of(row.kind === "global" ? "GLOBAL" : "TENSOR"));
    for (const [place, node] of nodes.entries()) {
      if (node.truth !== row.asks[place]) throw new Refusal(truth(op, !node.truth));
    }
    const node = make(op, nodes, kept === null ? null : { kept });
    checkShapes(op, node);
    language.recorder.remember(node);
    return new Symbol_(node);
  }

  /** Build the node of a number of the shape of an array, which all arrays of a tensor share. */
  function sizeOf(op, operand) {
    if (operand.node.rank !== rank.of("ELEMENT")) {
      throw new Refusal(told("size of a part", { op, given: rank.word(operand.node.rank) }));
    }
    const node = make(op);
    language.recorder.remember(node);
    return new Symbol_(node);
  }

  /** Build the node of random numbers, other ones at every call. */
  function draw(op) {
    if (!language.recorder) throw new Refusal(told("drawn outside", { op }));
    const node = make(op, [], language.recorder.sites++);
    language.recorder.remember(node);
    return new Symbol_(node);
  }

  Object.assign(language, {
    Refusal,
    PythonError,
    Symbol: Symbol_,
    Recorder,
    isSymbol,
    number,
    lift,
    apply,
    sizeOf,
    draw,
    sidesOf,
    shape,
  });
})((globalThis.steprule ??= {}));
