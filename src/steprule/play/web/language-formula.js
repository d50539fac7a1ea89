// Rules, transforms and chains: what `@rule`, `@transform` and `chain` give back; rule/formula.py in JavaScript.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { Refusal, isSymbol, number, same } = language;
  const { told, phrase, general, repr } = language.text;

  /** Where a function's definition stands: its whole line. */
  language.definition = function (called) {
    return lineOf(called.doc, called.node.from + (called.node.type === "FunctionDefinition" ? offset(called) : 0));
  };

  function offset(called) {
    return Math.max(called.doc.slice(called.node).search(/\bdef\b/), 0);
  }

  function lineOf(doc, position) {
    const from = doc.text.lastIndexOf("\n", position - 1) + 1;
    const end = doc.text.indexOf("\n", position);
    const line = doc.text.slice(from, end < 0 ? doc.text.length : end);
    const start = from + line.length - line.trimStart().length;
    return { doc, from: start, to: start + line.trim().length, node: null };
  }

  /** The last `return` line of a function. */
  language.returned = function (called) {
    let found = null;
    const look = (node) => {
      if (["FunctionDefinition", "LambdaExpression"].includes(node.type) && node !== called.node) return;
      if (node.type === "ReturnStatement") {
        const line = lineOf(called.doc, node.from);
        if (called.doc.text.slice(line.from).startsWith("return")) found = line;
      }
      node.kids.forEach(look);
    };
    look(called.body);
    return found ?? language.definition(called);
  };

  /** One function of a chain, with its name, values and variants. */
  class Part {
    constructor(given) {
      Object.assign(this, given);
    }
    get given() {
      return this.moves === "update" ? 3 : 2;
    }
    get own() {
      const chosen = [...this.chosen.values()];
      const has = (one) => one.only === null || chosen.some((value) => same(value, one.only));
      return new Map([...this.hypers].filter(([, one]) => has(one)));
    }
    get keywords() {
      return new Map([...[...this.hypers].map(([name, one]) => [name, one.value]), ...this.chosen]);
    }
  }

  /** Something that can be read: a rule, a transform, or a chain of them. */
  class Formula {
    callable = true;
    get kind() {
      return this.parts.length > 1 || this.chained ? "Chain" : this.parts[0].moves === null ? "Rule" : "Transform";
    }
    constructor(parts, name, chained) {
      Object.assign(this, { parts, name, chained });
    }
    repr() {
      const all = this.parts.flatMap((part) => [...part.own.values()]).filter((one) => one.value !== null);
      return `${this.name}(${all.map((one) => `${one.name}=${general(number(one.value), 6)}`).join(", ")})`;
    }
    call_(given, named) {
      if (this.chained) return configureChain(this, given, named);
      const [part] = this.parts;
      if (given.length === 1 && given[0] instanceof Formula && part.moves !== null) {
        const own = named.size ? configure(this, named) : this;
        return language.chain(part.moves === "update" ? [given[0], own] : [own, given[0]]);
      }
      return given.length ? inline(this, given, named) : configure(this, named);
    }
  }

  const single = (part) => new Formula([part], part.name, false);
  const listed = (names) => [...names].join(", ");

  function refuse(formula, message) {
    return new Refusal(message, language.definition(formula.parts[0].called));
  }

  function configure(formula, named) {
    const [part] = formula.parts;
    const hypers = new Map(part.hypers);
    const chosen = new Map(part.chosen);
    const owner = formula.name;
    for (const [name, value] of named) {
      if (hypers.has(name)) {
        const own = hypers.get(name).check(value, `\`${owner}\``);
        hypers.set(name, hypers.get(name).with({ value: own, given: true }));
      } else if (!chosen.has(name)) {
        const known = listed([...part.own.keys(), ...chosen.keys()]) || "none";
        throw refuse(formula, told("unknown hyper", { owner, name, known }));
      } else if (!part.signature.choices.get(name).options.some((option) => same(option, value))) {
        const known = listed(part.signature.choices.get(name).options.map(repr));
        throw refuse(formula, told("unknown variant", { owner, name, value: repr(value), known }));
      } else chosen.set(name, value);
    }
    const made = new Part({ ...part, hypers, chosen });
    for (const name of named.keys()) {
      if (!hypers.has(name) || made.own.has(name)) continue;
      const known = listed([...made.own.keys(), ...chosen.keys()]);
      throw refuse(formula, told("other variant", { owner, name, only: repr(hypers.get(name).only), known }));
    }
    return single(made);
  }

  function inline(formula, given, named) {
    const [part] = formula.parts;
    const { signature } = part;
    if (![...given, ...named.values()].some(isSymbol)) throw withoutSymbols(formula, given);
    const keywords = part.keywords;
    if (signature.wantsStep) keywords.set("t", new language.Symbol(language.step()));
    if (signature.wantsLoss) keywords.set("loss", new language.Symbol(language.hyper("loss")));
    if (signature.wantsFirst) keywords.set(signature.first, null);
    const unknown = [...named.keys()].filter((name) => !keywords.has(name) && !signature.arrays.includes(name));
    const values = new Map([...keywords, ...named]);
    const needs = (name) => part.hypers.has(name) || name === signature.first;
    const lacking = [...values].find(([name, value]) => value === null && needs(name));
    const owner = formula.name;
    if (lacking) throw new Refusal(told("inline without value", { owner, name: lacking[0] }));
    const arrays = signature.arrays.filter((name) => named.has(name)).length;
    if (unknown.length || given.length + arrays !== signature.arrays.length) {
      const shown = listed([...signature.arrays, ...[...keywords.keys()].map((name) => `${name}=${name}`)]);
      const message = unknown.length
        ? told("inline unknown", { owner, name: unknown[0], given: shown })
        : told("inline takes", { owner, needed: listed(signature.arrays), given: shown });
      throw new Refusal(message);
    }
    return language.callRule(part.called, given, values);
  }

  function withoutSymbols(formula, given) {
    const [part] = formula.parts;
    const { choices } = part.signature;
    const owner = formula.name;
    const plain = (value) => value === null || ["bigint", "number", "boolean", "string"].includes(typeof value);
    const isNumber = ["bigint", "number", "boolean"].includes(typeof given[0]);
    const names = [...part.own.keys(), ...choices.keys()].filter((name) => isNumber || choices.has(name));
    if (names.length && given.every(plain)) {
      const pairs = names.slice(0, given.length).map((name, i) => `${name}=${repr(given[i])}`);
      return new Refusal(told("by name", { owner, named: listed(pairs) }));
    }
    const fix = phrase(part.moves === null ? "run" : "chained", { name: owner });
    return refuse(formula, told("on tensors", { owner, fix }));
  }

  function configureChain(chain, given, named) {
    if (given.length)
      throw new language.PythonError(
        "TypeError",
        `Chain.__call__() takes 1 positional argument but ${given.length + 1} were given`,
      );
    const owners = language.owners(chain.parts);
    chain.parts.forEach((part, place) => {
      for (const name of part.chosen.keys()) {
        if (!owners.has(name)) owners.set(name, []);
        owners.get(name).push([place, name]);
      }
    });
    const values = chain.parts.map(() => new Map());
    for (const [name, value] of named) {
      if (!owners.has(name)) {
        throw new Refusal(told("unknown hyper", { owner: chain.name, name, known: listed(owners.keys()) || "none" }));
      }
      for (const [place, own] of owners.get(name)) values[place].set(own, value);
    }
    return chained(chain.parts.map((part, i) => configure(single(part), values[i]).parts[0]));
  }

  const chained = (parts) => new Formula(parts, parts.map((part) => part.name).join("+"), true);

  /** Compose transforms and a rule. */
  language.chain = function (formulas) {
    for (const formula of formulas) {
      if (formula instanceof Formula) continue;
      const fix = phrase(formula instanceof language.Function ? "decorate" : "links");
      throw new Refusal(told("no link", { given: repr(formula), fix }));
    }
    const parts = formulas.flatMap((formula) => formula.parts);
    if (!parts.length) throw new Refusal(told("empty chain", {}));
    checkOrder(parts);
    return chained(parts);
  };

  function checkOrder(parts) {
    const at = (part) => language.definition(part.called);
    const pointing = parts.filter((part) => part.evaluateAt !== null);
    if (pointing.length > 1) {
      const [name, other] = pointing.map((part) => part.name);
      const fix = pointing[0].moves !== null ? phrase("leave one", { name }) : phrase("leave", { name: other });
      throw new Refusal(told("two points", { name, other, fix }), at(pointing[1]));
    }
    let ruled = false;
    for (const [place, part] of parts.entries()) {
      const { name } = part;
      if (part.moves === null && parts.slice(place + 1).some((other) => other.moves !== "update")) {
        throw new Refusal(told("rule not last", { name }), at(part));
      }
      ruled ||= part.moves === null;
      if (part.moves === "update" && !ruled) throw new Refusal(told("update first", { name }), at(part));
    }
    const last = parts[parts.length - 1];
    if (!ruled) throw new Refusal(told("no rule", { name: last.name }), at(last));
  }

  function made(transform, named, called) {
    const moves = transform ? (named.get("moves") ?? "gradient") : null;
    const evaluateAt = named.get("evaluate_at") ?? null;
    if (![null, "gradient", "parameter", "update"].includes(moves)) {
      const at = called instanceof language.Function ? language.definition(called) : language.at;
      throw new Refusal(told("moves", { moves: repr(moves) }), at);
    }
    const signature = language.readSignature(called, moves === "update" ? 3 : 2);
    if (evaluateAt !== null && !(evaluateAt instanceof language.Function)) {
      throw new Refusal(told("evaluate_at", { given: repr(evaluateAt) }), language.definition(called));
    }
    const chosen = new Map([...signature.choices].map(([name, one]) => [name, one.options[0]]));
    const { name } = called;
    return single(new Part({ name, called, signature, hypers: signature.hypers, chosen, moves, evaluateAt }));
  }

  /** Return `@rule` or `@transform`, as a function of the language. */
  language.maker = function (name, transform) {
    const options = transform ? ["moves", "evaluate_at"] : ["evaluate_at"];
    const list = [
      { name: "function", kind: "any", value: null },
      ...options.map((one) => ({ name: one, kind: "keyword", value: null })),
    ];
    return new language.Builtin(name, (given, named) => {
      const own = language.bind(name, list, given, named);
      const called = own.get("function");
      own.delete("function");
      if (transform && !named.has("moves")) own.delete("moves");
      return called === null
        ? new language.Builtin(name, ([function_]) => made(transform, own, function_))
        : made(transform, own, called);
    });
  };

  Object.assign(language, { Formula, Part, single });
})((globalThis.steprule ??= {}));
