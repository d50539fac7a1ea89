// Purity: a rule is a formula, so reading it again gives the same and changes nothing. It follows rule/purity.py.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { Refusal, Sequence, Dict } = language;
  const { told, repr } = language.text;

  /** The variables of a function's own text, each where it stands first. */
  function variables(called) {
    const found = new Map();
    const look = (node) => {
      if (node.type === "ScopeStatement") return;
      const name = node.type === "VariableName" ? called.doc.slice(node) : "";
      if (name && !found.has(name)) found.set(name, node);
      node.kids.forEach(look);
    };
    look(called.body);
    return found;
  }

  /** Map the names that a function uses, and its defaults, to what they mean now. */
  function known(called) {
    const found = new Map();
    for (const name of variables(called).keys()) {
      let frame = called.frame;
      while (frame && !frame.names.has(name)) frame = frame.outer;
      if (frame) found.set(name, frame.names.get(name));
      else if (called.frame.globals.has(name)) found.set(name, called.frame.globals.get(name));
    }
    const defaults = called.parameters.map((one) => one.value).filter((value) => value !== undefined);
    return found.set(`a default of ${called.name}`, new language.List(defaults));
  }

  /** List functions, and those of the same text that they call. */
  function reached(functions) {
    const seen = new Set();
    const waiting = [...functions];
    while (waiting.length) {
      const called = waiting.pop();
      if (seen.has(called)) continue;
      seen.add(called);
      const own = [...known(called).values()].filter((value) => value instanceof language.Function);
      waiting.push(...own.filter((value) => value.frame.globals === called.frame.globals));
    }
    return [...seen];
  }

  const held = (value) => value instanceof Sequence || value instanceof Dict || !value?.kind;

  /** Map what functions know to an account of its content. */
  function accounts(functions) {
    const found = new Map();
    for (const called of functions) {
      for (const [label, value] of known(called))
        found.set(`${label}\n${called.node.from}`, held(value) ? repr(value) : "");
    }
    return found;
  }

  function firstDifference(graph, again) {
    const before = [...graph.origins.keys()];
    const now = [...again.origins.keys()];
    return before.find((node, i) => node !== now[i]) ?? graph.newParameter;
  }

  const same = (a, b) => a.length === b.length && a.every((node, i) => node === b[i]);

  function compare(name, functions, graph, read) {
    let again;
    try {
      again = read();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      throw new Refusal(told("not the same", { name }), error.at);
    }
    if (same(graph.roots, again.roots)) return;
    const where = graph.origins.get(firstDifference(graph, again));
    throw new Refusal(told("not the same", { name }), where ?? language.returned(functions[functions.length - 1]));
  }

  /** Refuse functions that write another formula when they are read again, or change something. */
  language.checkPure = function (name, functions, graph, read) {
    const all = reached(functions);
    const before = accounts(all);
    compare(name, functions, graph, read);
    const after = accounts(all);
    for (const called of all) {
      for (const label of known(called).keys()) {
        const key = `${label}\n${called.node.from}`;
        if (before.get(key) === after.get(key)) continue;
        const node = variables(called).get(label);
        const where = node ? language.place(node, called) : language.definition(called);
        throw new Refusal(told("changes", { name, label }), where);
      }
    }
  };
})((globalThis.steprule ??= {}));
