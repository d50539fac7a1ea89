// The door: `steprule.build` reads a text as Python would, and gives its rules or its errors.
(function (steprule) {
  "use strict";

  const language = steprule.language;
  const { Refusal, PythonError, Formula } = language;
  const { told, phrase } = language.text;

  /** Show a place as an error of the library does: the line, with a caret under the words. */
  function shown(at, line, column, endColumn) {
    const text = at.doc.text.split("\n")[line - 1] ?? "";
    const place = `  File "${steprule.facts.file}", line ${line}`;
    if (!text.trim()) return place;
    const indent = text.length - text.trimStart().length;
    const carets = "^".repeat(Math.max(endColumn - column, 1));
    return `${place}\n    ${text.trim()}\n    ${" ".repeat(Math.max(column - indent, 0))}${carets}`;
  }

  /** Lines count from 1, columns from 0; the end is the first column behind. */
  function located(error, own) {
    const at = error.at?.doc === own ? error.at : (language.site ?? { doc: own, from: 0, to: 0 });
    const before = own.text.slice(0, at.from);
    const line = before.split("\n").length;
    const column = at.from - (before.lastIndexOf("\n") + 1);
    const endColumn = column + Math.max(at.to - at.from, 1);
    const { what, fix } = error;
    return { line, column, endColumn, from: at.from, to: at.to, what, where: shown(at, line, column, endColumn), fix };
  }

  /** An error of Python's own outside of rules has the same three parts. */
  function threefold(error) {
    if (error instanceof Refusal) return error;
    if (!(error instanceof PythonError)) throw error;
    const unknown = ["NameError", "UnboundLocalError"].includes(error.kind);
    const values = {
      kind: error.kind,
      name: steprule.facts.file,
      error: error.message,
      fix: language.advice.ofPython(error),
    };
    return Object.assign(new Refusal(told(unknown ? "unknown name" : "error", values)), { at: error.at });
  }

  function broken(tree, doc) {
    const find = (node) => (node.type === "⚠" ? node : node.kids.map(find).find(Boolean));
    const node = find(tree);
    if (!node) return null;
    const from = node.from === node.to ? Math.max(doc.text.slice(0, node.from).trimEnd().length - 1, 0) : node.from;
    const error = new Refusal(told("syntax", {}));
    const end = doc.text.indexOf("\n", from);
    error.at = { doc, from, to: Math.max(Math.min(node.to, end < 0 ? node.to : end), from + 1), node: null };
    return error;
  }

  function imports(tree, doc) {
    if (tree.type === "ImportStatement" && /\bsteprule\b/.test(doc.slice(tree))) return true;
    return tree.kids.some((kid) => imports(kid, doc));
  }

  const isRule = (value) => value instanceof Formula && value.parts.some((part) => part.moves === null);

  /** Run the statements of a text; return its formulas in the order of their lines, and the last statement's. */
  function run(tree, frame) {
    const made = new Map();
    let last = null;
    for (const kid of tree.kids) {
      const before = new Map(frame.names);
      language.site = language.place(kid, frame);
      last = null;
      if (kid.type === "ExpressionStatement") last = language.valueOf(kid.kids, frame);
      else language.statement(kid, frame);
      for (const [name, value] of frame.names) {
        if (before.get(name) === value || !(value instanceof Formula) || kid.type === "ImportStatement") continue;
        made.delete(name);
        made.set(name, value);
        if (kid.type === "AssignStatement") last = value;
      }
    }
    return { made, last };
  }

  function chosen(formula, choices) {
    const known = formula.parts.flatMap((part) => [...part.signature.choices.keys()]);
    const given = Object.entries(choices ?? {}).filter(([name]) => known.includes(name));
    return given.length ? formula.call_([], new Map(given)) : formula;
  }

  function declared(hyper) {
    const bound = (value) => (value === null ? null : language.number(value));
    return {
      name: hyper.name,
      value: bound(hyper.value),
      low: bound(hyper.low ?? hyper.above),
      high: bound(hyper.high ?? hyper.below),
      openLow: hyper.above !== null,
      openHigh: hyper.below !== null,
      symbol: language.symbolOf(hyper.name, true),
      tune: hyper.tune,
    };
  }

  function variants(formula) {
    return formula.parts.flatMap((part) =>
      [...part.signature.choices].map(([name, { options }]) => {
        return { name, options, value: part.chosen.get(name) };
      }),
    );
  }

  /** Return what a page shows and runs of a formula. */
  function described(formula) {
    const graph = language.trace(formula);
    if (isRule(formula)) language.checkPoint(graph);
    const points = [
      [graph.implicit, "implicit"],
      [graph.looksAhead, "look-ahead"],
      [graph.first !== "", "twice"],
    ];
    return {
      name: formula.name,
      latex: language.latex(graph),
      text: language.formula(graph),
      hypers: graph.hypers.filter((hyper) => !hyper.told).map(declared),
      slots: graph.slots.map(({ name, rank, init }) => ({ name, rank: language.rank.word(rank), init })),
      choices: variants(formula),
      graph,
      evaluatesAt: points.find(([holds]) => holds)?.[1] ?? "parameter",
      usesLoss: graph.hypers.some((hyper) => hyper.told),
    };
  }

  function reading(doc, tree, choices, found) {
    const names = imports(tree, doc) ? new Map() : language.everything();
    const frame = new language.Frame(doc, names);
    frame.names = names;
    const { made, last } = run(tree, frame);
    const rules = [...made.values()].filter(isRule);
    const written = rules.filter((rule) => !rule.chained);
    const program = isRule(last) ? last : (written[written.length - 1] ?? rules[rules.length - 1]);
    const all = new Set([...made.values(), ...(program ? [program] : [])]);
    for (const formula of all) {
      attempt(found, doc, () => {
        const own = described(formula === program ? chosen(formula, choices) : formula);
        (isRule(formula) ? found.rules : found.transforms).push(own);
        if (formula === program) found.rule = own;
      });
    }
  }

  function attempt(found, doc, action) {
    try {
      action();
    } catch (error) {
      const overflow = error instanceof RangeError; // nested deeper than JavaScript's own stack
      const own = overflow ? new Refusal(told("endless", { most: steprule.facts.longest })) : threefold(error);
      found.errors.push(located(own, doc));
    }
  }

  /**
   * Read a text of Python that holds rules.
   * @param {string} source the text, as in a file that imports steprule; without such an import all its names are known
   * @param {Object<string, *>} [choices] variants of the program, by name
   * @returns {{rule: ?object, rules: object[], transforms: object[], errors: object[]}} the program that the text ends
   *   in, all its rules and transforms, and what is wrong: each error says what, where (line from 1, columns from 0) and
   *   what to do
   */
  steprule.build = function (source, choices) {
    language.begin();
    const { doc, tree } = language.parse(source);
    const found = { rule: null, rules: [], transforms: [], errors: [] };
    const wrong = broken(tree, doc);
    if (wrong) found.errors.push(located(wrong, doc));
    else attempt(found, doc, () => reading(doc, tree, choices, found));
    return found;
  };

  steprule.phrase = phrase;
})((globalThis.steprule ??= {}));
