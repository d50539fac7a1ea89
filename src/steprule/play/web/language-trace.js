// Run a chain of functions once on symbols and collect the graph that they write; rule/trace.py in JavaScript.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { rank, read, make, lift, topological, Refusal, PythonError, Hyper, Slot, Sequence } = language;
  const { told, phrase, repr } = language.text;

  /** Call an author's function on symbols; an error of Python's names the author's line. */
  language.callRule = function (called, given, named) {
    try {
      return language.run(called, given, named);
    } catch (error) {
      if (!(error instanceof PythonError)) throw error;
      const { name } = called;
      if (error.kind === "RecursionError") throw new Refusal(told("recursion", { name }), language.definition(called));
      const values = { kind: error.kind, name, error: error.message, fix: language.advice.ofPython(error) };
      const unknown = ["NameError", "UnboundLocalError"].includes(error.kind);
      throw new Refusal(told(unknown ? "unknown name" : "error", values), error.at);
    }
  };

  function free(wanted, part, taken) {
    let name = wanted;
    for (let count = 1; taken.has(name) || name === "t"; count++) {
      name = count === 1 ? `${part}_${wanted}` : `${part}_${wanted}_${count}`;
    }
    return name;
  }

  /** Return a declaration under a free name: a part that finds its name taken prefixes it with its own. */
  function claim(declared, part, taken) {
    const known = taken.get(declared.name);
    if (declared instanceof Hyper && declared.shared && known instanceof Hyper) return known;
    const name = free(declared.name, part, taken);
    const own = declared instanceof Hyper ? declared.with({ name }) : declared.named(name);
    taken.set(name, own);
    return own;
  }

  function firstClaims(parts) {
    const last = parts.find((part) => part.moves === null) ?? parts[parts.length - 1];
    const names = [...last.signature.arrays.slice(0, 2), last.signature.first];
    const own = names.slice(0, parts.some((part) => part.evaluateAt !== null) ? 3 : 2);
    return [last, new Map(own.map((name) => [name, new Slot({ name })]))];
  }

  /** List, for each hyperparameter of a chain, the places of the parts that have it. */
  language.owners = function (parts) {
    const [last, taken] = firstClaims(parts);
    const found = new Map();
    const places = [...parts.keys()].sort((a, b) => (parts[a] !== last) - (parts[b] !== last) || a - b);
    for (const place of places) {
      const part = parts[place];
      part.signature.slots.forEach((slot) => claim(slot, part.name, taken));
      for (const [name, declared] of part.own) {
        const { name: own } = claim(declared, part.name, taken);
        found.set(own, [...(found.get(own) ?? []), [place, name]]);
      }
    }
    return found;
  };

  const symbol = (node) => new language.Symbol(node);

  function bind(part, taken) {
    const slots = part.signature.slots.map((slot) => claim(slot, part.name, taken));
    const names = part.signature.arrays.slice(part.given);
    const arrays = new Map(names.map((name, i) => [name, symbol(read(slots[i].name, slots[i].rank))]));
    const keywords = part.keywords;
    for (const [name, declared] of part.own)
      keywords.set(name, symbol(language.hyper(claim(declared, part.name, taken).name)));
    if (part.signature.wantsStep) keywords.set("t", symbol(language.step()));
    if (part.signature.wantsLoss) keywords.set("loss", symbol(language.hyper("loss")));
    return { part, slots, arrays, keywords, first: null };
  }

  function returned(value, called) {
    try {
      return lift(value);
    } catch (error) {
      if (error instanceof Refusal) error.at = language.returned(called);
      throw error;
    }
  }

  function run(bound, given, first) {
    const { part } = bound;
    const { signature } = part;
    bound.first = first;
    if (signature.wantsFirst) bound.keywords.set(signature.first, first);
    const result = language.callRule(part.called, [...given, ...bound.arrays.values()], bound.keywords);
    const values = result instanceof Sequence ? result.items : [result];
    const [parameter, gradient, ...rest] = signature.arrays;
    const wanted = [part.moves === "gradient" ? gradient : parameter, ...rest.slice(part.given - 2)];
    language.at = language.returned(part.called);
    if (values.length !== wanted.length || values.some((value) => value === null)) {
      const news = wanted.map((name) => phrase("new", { name })).join(", ");
      const count = result === null ? "no" : values.length;
      const counts = { name: part.name, given: count, needed: wanted.length };
      throw new Refusal(
        told("returns", { ...counts, told: news, wanted: wanted.join(", ") }),
        language.returned(part.called),
      );
    }
    const nodes = values.map((value) => returned(value, part.called));
    const where = (node) => language.recorder.origins.get(node) ?? language.returned(part.called);
    if (!rank.within(nodes[0].rank, rank.of("ELEMENT"))) {
      throw new Refusal(
        told("returns a matrix", { name: wanted[0], sides: language.sidesOf(nodes[0].rank) }),
        where(nodes[0]),
      );
    }
    for (const [i, node] of nodes.entries()) {
      if (node.truth) throw new Refusal(told("returns a comparison", { name: wanted[i] }), where(node));
    }
    bound.slots.forEach((slot, i) => checkSlot(slot, nodes[i + 1], where));
    return nodes;
  }

  function checkSlot(slot, node, where) {
    const { name } = slot;
    if (!rank.within(node.rank, slot.rank)) {
      const apart = rank.apart(slot.rank) || rank.apart(node.rank);
      const fix = roomFor(slot, node);
      const [held, given] = [language.sidesOf(slot.rank), language.sidesOf(node.rank)];
      const message = apart
        ? told("slot of a matrix", { name, held, given, fix })
        : told("slot too small", { name, held: rank.each(slot.rank), given: rank.word(node.rank), fix });
      throw new Refusal(message, where(node));
    }
    const own = slot.rank === rank.of("GLOBAL") ? language.toldApart(node) : null;
    if (!own) return;
    const user = topological([node]).find((one) => one.inputs.includes(own) && language.recorder.origins.has(one));
    throw new Refusal(told("slot of all", { slot: name, name: own.array || "t" }), where(user ?? own));
  }

  /** Say how a slot and its new value come together. */
  function roomFor(slot, value) {
    const { name } = slot;
    const of = (word) => phrase("its rank", { name, rank: repr(word) });
    if (rank.apart(value.rank)) {
      const kept = ["LEFT", "RIGHT"].includes(rank.name(value.rank));
      return kept ? of(rank.word(value.rank)) : phrase("transpose");
    }
    if (rank.apart(slot.rank)) return phrase("no rank", { name });
    const isGlobal = slot.rank === rank.of("GLOBAL");
    if (rank.within(value.rank, rank.of("TENSOR")))
      return (isGlobal ? phrase("over all or") : "") + of(rank.word(value.rank));
    const axes = new Map([
      [rank.of("ROW"), ", axis=1"],
      [rank.of("COLUMN"), ", axis=0"],
    ]);
    const axis = value.rank === rank.of("ELEMENT") ? (axes.get(slot.rank) ?? "") : "";
    const how = isGlobal ? phrase("over all") : phrase("mean first", { axis });
    const host = slot.rank === rank.of("HOST");
    const wider = host ? "tensor" : rank.word(value.rank | slot.rank);
    return phrase("reduced", { how, joined: host ? "and" : "or", name, rank: repr(wider) });
  }

  // The point where the gradient is taken ---------------------------------------------------------------------

  function pointOf(bound, theta, end, g) {
    const { part } = bound;
    const { signature } = part;
    const [parameter, gradient] = signature.arrays;
    const known = new Map([
      [parameter, theta],
      [`new_${parameter}`, end],
      [signature.first, bound.first],
    ]);
    for (const [name, value] of [...bound.arrays, ...bound.keywords]) known.set(name, value);
    const list = part.evaluateAt.parameters;
    const missing = list.find((one) => !known.has(one.name));
    if (missing) {
      const message =
        missing.name === gradient
          ? told("point asks gradient", { name: gradient, first: signature.first, parameter })
          : told("point asks", { name: missing.name, rule: part.name, known: [...known.keys()].join(", ") });
      throw new Refusal(message, language.definition(part.evaluateAt));
    }
    const places = list.filter((one) => one.kind !== "keyword").map((one) => known.get(one.name));
    const named = list.filter((one) => one.kind === "keyword").map((one) => [one.name, known.get(one.name)]);
    const point = lift(language.callRule(part.evaluateAt, places, new Map(named)));
    refusePoint(part, point, end, g);
    return point;
  }

  function refusePoint(part, point, end, g) {
    const below = topological([point]);
    const { name, signature } = part;
    const [parameter] = signature.arrays;
    const at = language.definition(part.evaluateAt);
    if (below.includes(g) && point !== end.node) {
      throw new Refusal(told("point of the end", { name, parameter, first: signature.first }), at);
    }
    if (below.some((node) => node.kind === "chance" || node === language.hyper("loss"))) {
      throw new Refusal(told("point drawn", { name }), at);
    }
    const shared = below.find((node) => node.array && node.rank === rank.of("GLOBAL"));
    if (shared && point !== end.node) throw new Refusal(told("point of all", { name, shared: shared.array }), at);
  }

  // The graph ---------------------------------------------------------------------------------------------------

  /** Return the gradient at the parameter itself after a transform: in the same unit and of the same sign as g. */
  function alike(first, before, after) {
    const unit = after === before ? null : language.factor(after, before);
    if (!unit || unit.rank !== rank.of("HOST")) return first;
    return symbol(make("mul", [unit, first.node]));
  }

  function readParts(name, parts) {
    const [last, taken] = firstClaims(parts);
    const [parameter, gradient] = last.signature.arrays;
    const ending = bind(last, taken);
    const bounds = parts.map((part) => (part === last ? ending : bind(part, taken)));
    const start = symbol(read(parameter));
    let [seen, theta, g, first] = [start, start, symbol(read(gradient)), symbol(read(last.signature.first))];
    const news = new Map();
    const gauges = new Map();
    const gradients = new Map();
    for (const bound of bounds) {
      language.recorder.gauges = new Map();
      const given = bound.part.moves === "update" ? [seen, g, theta] : [theta, g];
      const [value, ...slots] = run(bound, given, first);
      for (const [own, node] of language.recorder.gauges) gauges.set(free(own, bound.part.name, gauges), node);
      bound.slots.forEach((slot, i) => news.set(slot.name, slots[i]));
      seen = bound === ending ? theta : seen;
      if (bound.part.moves === "gradient") {
        [first, g] = [alike(first, g.node, value), symbol(value)];
        if (value.rank === rank.of("ELEMENT") && value.inputs.length) gradients.set(value, bound.part.name);
      } else theta = symbol(value);
    }
    const slots = [ending, ...bounds.filter((bound) => bound !== ending)].flatMap((bound) => bound.slots);
    const graph = {
      name,
      parameter,
      gradient,
      slots,
      gradients,
      gauges,
      evaluateAt: null,
      first: "",
      hypers: [...taken.values()].filter((one) => one instanceof Hyper),
      newParameter: (last.moves === "gradient" ? g : theta).node,
      newSlots: slots.map((slot) => news.get(slot.name)),
      countsSteps: parts.some((part) => part.signature.wantsStep),
    };
    return pointed(graph, bounds, start, theta, read(last.signature.first));
  }

  function pointed(graph, bounds, theta, end, first) {
    const bound = bounds.find((one) => one.part.evaluateAt !== null);
    const asking = bounds.find((one) => one.part.signature.wantsFirst);
    if (!bound && asking) {
      const [parameter, gradient] = asking.part.signature.arrays;
      const values = { first: asking.part.signature.first, gradient, parameter };
      throw new Refusal(told("no point", values), language.definition(asking.part.called));
    }
    if (!bound) return graph;
    graph.evaluateAt = pointOf(bound, theta, end, read(graph.gradient));
    if (!topological(rootsOf(graph)).includes(first)) return graph;
    if (graph.evaluateAt === graph.newParameter) {
      const values = { name: bound.part.name, parameter: graph.parameter, first: bound.part.signature.first };
      throw new Refusal(told("implicit twice", values), language.definition(bound.part.evaluateAt));
    }
    graph.first = first.array;
    const outputs = [graph.newParameter, ...graph.newSlots, ...watched(graph)];
    if (topological(outputs).includes(first)) {
      graph.slots = [...graph.slots, new Slot({ name: first.array, wide: true })];
      graph.newSlots = [...graph.newSlots, first];
    }
    return graph;
  }

  /** The outermost reductions of what is watched. */
  function watched(graph) {
    const outer = (formula) => {
      const reduces = new Set(topological([formula]).filter((node) => node.row.reducer));
      return topological([formula], reduces).filter((node) => reduces.has(node));
    };
    return [...graph.gauges.values()].flatMap(outer);
  }

  function rootsOf(graph) {
    const point = graph.evaluateAt ? [graph.evaluateAt] : [];
    return [graph.newParameter, ...graph.newSlots, ...point, ...watched(graph)];
  }

  /** Return f of the point θ − f; null if the point is no such thing. */
  function shiftOf(graph) {
    const theta = read(graph.parameter);
    const { op, inputs } = graph.evaluateAt;
    let f = null;
    if (op === "sub" && inputs[0] === theta) f = inputs[1];
    else if (op === "add" && inputs.includes(theta)) f = inputs[inputs[0] === theta ? 1 : 0];
    const below = f ? topological([f]) : [];
    return below.includes(theta) || below.includes(read(graph.gradient)) ? null : f;
  }

  /** Refuse a rule whose point no optimiser could find. */
  language.checkPoint = function (graph) {
    const { name, parameter, gradient } = graph;
    const names = new Set([
      parameter,
      gradient,
      ...graph.slots.map((slot) => slot.name),
      ...graph.hypers.map((one) => one.name),
    ]);
    if (graph.implicit && !(names.has("tolerance") && names.has("max_eval")))
      throw new Refusal(told("unsaid", { name }), null);
    if (!graph.looksAhead) return;
    const f = shiftOf(graph);
    if (!f) throw new Refusal(told("shift", { name, parameter }), graph.origins.get(graph.evaluateAt) ?? null);
    const used = topological([f]).filter((node) => node.op === "hyper");
    const kept = [steprule.facts.ahead, ...used.map((node) => `last_${node.attr}`)];
    const own = kept.filter((one) => names.has(one)).sort()[0];
    if (own) throw new Refusal(told("taken", { own, name }), null);
  };

  /** Return the graph of a formula, which is the same when it is read again. */
  language.trace = function (formula) {
    const read = () => readOnce(formula);
    const graph = read();
    const functions = formula.parts.flatMap((part) => [part.evaluateAt, part.called].filter((one) => one !== null));
    language.checkPure(formula.name, functions, graph, read);
    return graph;
  };

  function readOnce(formula) {
    const before = [language.recorder, language.at];
    language.recorder = new language.Recorder();
    try {
      const graph = readParts(formula.name, formula.parts);
      graph.roots = rootsOf(graph);
      graph.nodes = topological(graph.roots);
      graph.origins = language.recorder.origins;
      graph.implicit = graph.evaluateAt === graph.newParameter && !graph.first;
      graph.looksAhead = graph.evaluateAt !== null && !graph.implicit && !graph.first;
      if (graph.nodes.includes(language.hyper("loss"))) graph.hypers.push(new Hyper({ name: "loss", told: true }));
      return graph;
    } finally {
      [language.recorder, language.at] = before;
    }
  }
})((globalThis.steprule ??= {}));
