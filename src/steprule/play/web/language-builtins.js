// What names mean: the language's functions, those of Python that rules use, and modules.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { Builtin, PythonError, Refusal, List, Tuple, Sequence, isSymbol, isNumber, number, truth, apply } = language;
  const { rank, compare, iterate, kindOf, real } = language;
  const { told, phrase, repr } = language.text;

  // Functions of the language -----------------------------------------------------------------------------------

  function keptBy(op, axis) {
    if (axis === null) return null;
    const kept = typeof axis === "bigint" ? steprule.facts.axes[String(axis)] : undefined;
    if (kept !== undefined) return rank.of(kept);
    throw new Refusal(told("axis", { op, axis: repr(axis) }));
  }

  function unfit(op, operands) {
    const [first] = operands;
    const items = first instanceof Sequence ? first.items : [];
    if (items.some(isSymbol)) return phrase("one array", { op });
    return language.builtins.has(op) ? phrase("Python's own", { op }) : phrase("inside");
  }

  function joined(row, value) {
    const { reducer } = row;
    const { operations } = steprule;
    const each = reducer.each
      ? operations[reducer.each](...(reducer.each === "abs" ? [value] : [value, value]))
      : value;
    const finish = reducer.finish && (reducer.finish === "div" ? (x) => x : operations[reducer.finish]);
    return finish ? finish(each) : each;
  }

  function computed(row, operands) {
    const shown = new Tuple(operands);
    if (!operands.every(isNumber))
      throw new Refusal(told("of symbols", { op: row.name, given: repr(shown), fix: unfit(row.name, operands) }));
    const numbers = operands.map(real);
    if (row.reducer) return joined(row, numbers[0]);
    return Number(steprule.operations[row.name](...numbers));
  }

  /** Call an operation of the table, as authors do. */
  function callOp(op, operands, axis = null) {
    const row = language.tables().ops.get(op);
    if (row.kind === "chance") return language.draw(op);
    const kept = keptBy(op, axis);
    if (op === "where" && !isSymbol(operands[0])) return operands[truth(operands[0]) ? 1 : 2];
    if (row.kind === "size") return isSymbol(operands[0]) ? language.sizeOf(op, operands[0]) : 1;
    if (operands.some(isSymbol)) return apply(op, operands, kept);
    if (row.kind === "matrix") {
      const given = operands.slice(0, row.sides.split("->")[0].split(",").length).map(repr).join(", ");
      throw new Refusal(told("of matrices", { op, given }));
    }
    return computed(row, operands);
  }

  function bound(row, given, named) {
    const fail = (words) => new PythonError("TypeError", `${row.name}() ${words}`);
    const own = new Map(row.arguments.slice(0, given.length).map((name, i) => [name, given[i]]));
    if (given.length > row.arguments.length) throw fail("too many positional arguments");
    for (const [i, name] of row.arguments.entries()) {
      if (i < given.length && named.has(name)) throw fail(`multiple values for argument '${name}'`);
      if (i >= given.length && !named.has(name)) throw fail(`missing a required argument: '${name}'`);
      if (named.has(name)) own.set(name, named.get(name));
    }
    const unknown = [...named.keys()].find(
      (name) => !row.arguments.includes(name) && !(name === "axis" && row.kind === "tensor"),
    );
    if (unknown !== undefined) throw fail(`got an unexpected keyword argument '${unknown}'`);
    return row.arguments.map((name) => own.get(name));
  }

  const written = new Map(
    Object.entries({
      clamp: (own) => callOp("minimum", [callOp("maximum", [own.get("x"), own.get("low")]), own.get("high")]),
      inverse_root: (own) => callOp("inverse_root", [own.get("x"), own.get("p"), own.get("eps")]),
      orthogonalize(own) {
        const op = truth(own.get("gram")) ? "orthogonalize_gram" : "orthogonalize";
        return callOp(
          op,
          ["x", "a", "b", "c", "eps", "steps"].map((name) => own.get(name)),
        );
      },
    }),
  );

  function functionOf(name) {
    const row = language.tables().ops.get(name);
    if (!written.has(name))
      return new Builtin(name, (given, named) => callOp(name, bound(row, given, named), named.get("axis") ?? null));
    const list = steprule.facts.signatures[name].map((one) => ({
      ...one,
      value: one.value === undefined ? undefined : decoded(one.value),
    }));
    return new Builtin(name, (given, named) => written.get(name)(language.bind(name, list, given, named)));
  }

  /** A default from the facts: whole numbers come as texts, since JSON has floats alone. */
  const decoded = (value) => (typeof value === "string" ? BigInt(value) : value);

  // Gauges ------------------------------------------------------------------------------------------------------

  language.ofEveryRule = function (name) {
    const { gauges } = steprule.facts;
    return gauges.names.includes(name) || name.startsWith(gauges.stalled);
  };

  function watch(name, expression) {
    const { pattern, example } = steprule.facts.gauges;
    const called = repr(name);
    if (typeof name !== "string" || !new RegExp(`^(?:${pattern})$`, "u").test(name)) {
      throw new Refusal(told("gauge name", { name: called, example }));
    }
    if (language.ofEveryRule(name)) throw new Refusal(told("gauge of all", { name: called }));
    if (!isSymbol(expression)) throw new Refusal(told("gauge of nothing", { given: repr(expression), example }));
    const { node } = expression;
    if (node.truth) throw new Refusal(told("gauge of truth", { name: called }));
    if (!rank.within(node.rank, rank.of("TENSOR"))) {
      throw new Refusal(told("gauge of many", { name: called, rank: rank.word(node.rank) }));
    }
    if (language.recorder.gauges.has(name)) throw new Refusal(told("gauge twice", { name: called }));
    language.recorder.remember(node);
    language.recorder.gauges.set(name, node);
    return expression;
  }

  const WATCH = [
    { name: "name", kind: "any" },
    { name: "expression", kind: "any" },
  ];

  /** The words of the language, by name, but those of the zoo. */
  language.words = function () {
    const words = new Map(steprule.facts.functions.map((name) => [name, functionOf(name)]));
    const set = (name, run) => words.set(name, new Builtin(name, run));
    set("hyper", language.declaredHyper);
    set("slot", language.declaredSlot);
    set("choice", language.declaredChoice);
    set("chain", language.chain);
    set("watch", (given, named) => watch(...language.bind("watch", WATCH, given, named).values()));
    words.set("rule", language.maker("rule", false));
    words.set("transform", language.maker("transform", true));
    return words;
  };

  // Python's own ------------------------------------------------------------------------------------------------

  const builtins = (language.builtins = new Map());
  const python = (name, run) => builtins.set(name, new Builtin(name, run));
  const absent =
    (method) =>
    ([value]) => {
      if (isSymbol(value)) throw language.valueless(method);
      return null;
    };

  function least(sign) {
    return (given, named) => {
      const items = given.length === 1 ? iterate(given[0]) : given;
      if (!items.length)
        throw new PythonError("ValueError", `${sign === "<" ? "min" : "max"}() arg is an empty sequence`);
      const key = named.get("key");
      const of = (value) => (key ? language.invoke(key, [value], new Map()) : value);
      return items.reduce((best, item) => (truth(compare(sign, of(item), of(best))) ? item : best));
    };
  }

  function range(given) {
    if (given.some(isSymbol)) throw language.valueless("index");
    if (!given.every(language.whole)) {
      throw new PythonError(
        "TypeError",
        `'${kindOf(given.find((one) => !language.whole(one)))}' object cannot be interpreted as an integer`,
      );
    }
    const [from, to, by] =
      given.length === 1 ? [0, Number(given[0]), 1] : [Number(given[0]), Number(given[1]), Number(given[2] ?? 1)];
    const count = Math.min(Math.max(Math.ceil((to - from) / by), 0), 200000);
    return new Tuple(Array.from({ length: count }, (_, i) => BigInt(from + i * by)));
  }

  function toFloat([value]) {
    if (isSymbol(value)) throw language.valueless("float");
    const words =
      typeof value === "string"
        ? value
            .trim()
            .toLowerCase()
            .replace(/^([+-]?)inf(inity)?$/, "$1Infinity")
        : value;
    const found =
      typeof words === "string"
        ? words === "nan"
          ? NaN
          : words === ""
            ? undefined
            : Number(words.replace("infinity", "Infinity"))
        : real(value ?? 0n);
    if (typeof value === "string" && (found === undefined || (Number.isNaN(found) && words !== "nan"))) {
      throw new PythonError("ValueError", `could not convert string to float: ${repr(value)}`);
    }
    return found;
  }

  function toInt([value]) {
    if (isSymbol(value)) throw language.valueless("int");
    if (typeof value === "string") return BigInt(value.trim());
    return typeof value === "number" ? BigInt(Math.trunc(value)) : BigInt(value ?? 0n);
  }

  function rounded([value, digits]) {
    if (isSymbol(value)) throw language.valueless("round");
    if (typeof value !== "number") return value;
    const even = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
    return digits === undefined ? BigInt(even(value)) : Number(value.toFixed(Number(digits)));
  }

  python("min", least("<"));
  python("max", least(">"));
  python("range", range);
  python("float", toFloat);
  python("int", toInt);
  python("complex", absent("complex"));
  python("bool", ([value]) => truth(value ?? null));
  python("round", rounded);
  python("print", () => null);
  python("str", ([value]) => (typeof value === "string" ? value : repr(value)));
  python("repr", ([value]) => repr(value));
  python("list", ([value]) => new List(value === undefined ? [] : [...iterate(value)]));
  python("tuple", ([value]) => new Tuple(value === undefined ? [] : [...iterate(value)]));
  python("set", ([value]) => new List([...iterate(value)]));
  python("reversed", ([value]) => new List([...iterate(value)].reverse()));
  python("enumerate", ([value]) => new List(iterate(value).map((item, i) => new Tuple([BigInt(i), item]))));
  python("zip", (given) => {
    const all = given.map(iterate);
    const count = Math.min(...all.map((items) => items.length));
    return new List(
      Array.from({ length: Number.isFinite(count) ? count : 0 }, (_, i) => new Tuple(all.map((items) => items[i]))),
    );
  });
  python("any", ([value]) => iterate(value).some((item) => truth(item)));
  python("all", ([value]) => iterate(value).every((item) => truth(item)));
  python("sum", ([value, start]) => iterate(value).reduce((sum, item) => language.binary("+", sum, item), start ?? 0n));
  python("pow", ([a, b]) => language.binary("**", a, b));
  python("divmod", ([a, b]) => {
    if (isSymbol(a) || isSymbol(b)) throw language.valueless(isSymbol(a) ? "divmod" : "rdivmod");
    return new Tuple([language.binary("//", a, b), language.binary("%", a, b)]);
  });
  python("len", ([value]) => {
    if (isSymbol(value)) throw language.valueless("len");
    return BigInt(iterate(value).length);
  });
  python("abs", ([value]) => {
    if (isSymbol(value)) return apply("abs", [value]);
    return typeof value === "bigint" ? (value < 0n ? -value : value) : Math.abs(number(value));
  });
  python("callable", ([value]) => value?.callable === true);
})((globalThis.steprule ??= {}));
