// Functions that an author writes: their parameters, frames, and how they are called.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { PythonError, Refusal, isSymbol } = language;
  const { told } = language.text;
  const DEEPEST = 300;
  const FUEL = 2e6;
  let depth = 0;
  let fuel = FUEL;

  /** Where names have values: a module, a function that runs, or a comprehension. */
  class Frame {
    constructor(doc, globals, outer = null, assigned = new Set()) {
      Object.assign(this, { doc, globals, outer, assigned, names: new Map(), shared: new Set() });
    }
  }

  /** A function of the author's, or a lambda. */
  class Function_ {
    kind = "function";
    callable = true;
    constructor(name, parameters, body, frame, node) {
      Object.assign(this, { name, parameters, body, frame, node, doc: frame.doc });
    }
    repr() {
      return `<function ${this.name}>`;
    }
  }

  /** A function of the language or of Python. */
  class Builtin {
    kind = "builtin_function_or_method";
    callable = true;
    constructor(name, run) {
      Object.assign(this, { name, run });
    }
    repr() {
      return `<function ${this.name}>`;
    }
  }

  function parameters(list, frame) {
    const found = [];
    let kind = "any";
    const kids = list.kids;
    for (let i = 0; i < kids.length; i++) {
      if (kids[i].type === "*" || kids[i].type === "**") {
        const star = kids[i].type;
        if (kids[i + 1]?.type === "VariableName") found.push({ name: frame.doc.slice(kids[++i]), kind: star });
        kind = "keyword";
      } else if (kids[i].type === "/") {
        for (const one of found) one.kind = "positional";
      } else if (kids[i].type === "VariableName") {
        const one = { name: frame.doc.slice(kids[i]), kind };
        if (kids[i + 1]?.type === "TypeDef") i++;
        if (kids[i + 1]?.type === "AssignOp") {
          one.value = language.evaluate(kids[i + 2], frame);
          i += 2;
        }
        found.push(one);
      }
    }
    return found;
  }

  /** Names that a function's statements assign, as Python decides before it runs. */
  function assigned(node, doc, found = new Set()) {
    if (["LambdaExpression", "ClassDefinition"].includes(node.type)) return found;
    if (node.type === "FunctionDefinition")
      return found.add(doc.slice(node.kids.find((kid) => kid.type === "VariableName")));
    if (node.type === "AssignStatement") targets(node, doc, found);
    if (node.type === "UpdateStatement" && node.kids[0].type === "VariableName") found.add(doc.slice(node.kids[0]));
    if (node.type === "ForStatement") loopNames(node, doc, found);
    if (node.type === "ImportStatement") language.imported(node, doc).forEach((one) => found.add(one.as));
    if (node.type.endsWith("ComprehensionExpression")) return found;
    node.kids.forEach((kid) => assigned(kid, doc, found));
    return found;
  }

  function targets(node, doc, found) {
    const last = node.kids.map((kid) => kid.type).lastIndexOf("AssignOp");
    node.kids.slice(0, Math.max(last, 0)).forEach((kid) => variables(kid, doc, found));
  }

  function loopNames(node, doc, found) {
    const upto = node.kids.findIndex((kid) => kid.type === "in");
    node.kids.slice(1, upto).forEach((kid) => variables(kid, doc, found));
  }

  function variables(node, doc, found) {
    if (node.type === "VariableName") found.add(doc.slice(node));
    const nested = ["TupleExpression", "ArrayExpression", "ParenthesizedExpression"];
    if (nested.includes(node.type)) node.kids.forEach((kid) => variables(kid, doc, found));
  }

  /** Make the function of a definition. */
  language.defined = function (node, frame) {
    const name = frame.doc.slice(node.kids.find((kid) => kid.type === "VariableName"));
    const list = parameters(
      node.kids.find((kid) => kid.type === "ParamList"),
      frame,
    );
    return new Function_(
      name,
      list,
      node.kids.find((kid) => kid.type === "Body"),
      frame,
      node,
    );
  };

  language.lambda = function (node, frame) {
    const list = node.kids.find((kid) => kid.type === "ParamList");
    const body = node.kids[node.kids.length - 1];
    return new Function_("<lambda>", list ? parameters(list, frame) : [], body, frame, node);
  };

  /** Return a frame inside another, for a comprehension. */
  language.inside = (frame) => new Frame(frame.doc, frame.globals, frame);

  /** Find the value of a name. */
  language.lookUp = function (name, frame) {
    for (let own = frame; own; own = own.outer) {
      if (own.shared.has(name)) break;
      if (own.names.has(name)) return own.names.get(name);
      if (own.assigned.has(name)) {
        const message = `cannot access local variable '${name}' where it is not associated with a value`;
        throw new PythonError("UnboundLocalError", message, name);
      }
    }
    if (frame.globals.has(name)) return frame.globals.get(name);
    if (language.builtins.has(name)) return language.builtins.get(name);
    throw new PythonError("NameError", `name '${name}' is not defined`, name);
  };

  /** Give a name a value in a frame. */
  language.setName = function (name, value, frame) {
    (frame.shared.has(name) ? frame.globals : frame.names).set(name, value);
  };

  function missing(name, lacking, kind) {
    const words = lacking.map((one) => `'${one}'`);
    const all =
      words.length > 1
        ? `${words.slice(0, -1).join(", ")}${words.length > 2 ? "," : ""} and ${words.at(-1)}`
        : words[0];
    const plural = words.length > 1 ? "s" : "";
    return new PythonError("TypeError", `${name}() missing ${words.length} required ${kind} argument${plural}: ${all}`);
  }

  function tooMany(name, taken, given) {
    const least = taken.filter((one) => one.value === undefined).length;
    const most = taken.length;
    const takes = least < most ? `from ${least} to ${most}` : `${most}`;
    const words = `${takes} positional argument${most === 1 && least === most ? "" : "s"}`;
    return new PythonError("TypeError", `${name}() takes ${words} but ${given} ${given === 1 ? "was" : "were"} given`);
  }

  /** Bind arguments to parameters as Python does: a map of names to values. */
  language.bind = function (name, list, given, named) {
    const own = new Map();
    const places = list.filter((one) => one.kind === "any" || one.kind === "positional");
    const rest = list.find((one) => one.kind === "*");
    places.slice(0, given.length).forEach((one, i) => own.set(one.name, given[i]));
    const others = new Map();
    for (const [key, value] of named) {
      const known = list.some((one) => one.name === key && (one.kind === "any" || one.kind === "keyword"));
      if (known && own.has(key))
        throw new PythonError("TypeError", `${name}() got multiple values for argument '${key}'`);
      (known ? own : others).set(key, value);
    }
    const starred = list.find((one) => one.kind === "**");
    if (others.size && !starred) {
      const [key] = others.keys();
      throw new PythonError("TypeError", `${name}() got an unexpected keyword argument '${key}'`);
    }
    if (given.length > places.length && !rest) throw tooMany(name, places, given.length);
    if (rest) own.set(rest.name, new language.Tuple(given.slice(places.length)));
    if (starred) own.set(starred.name, new language.Dict(others));
    for (const one of list) if (!own.has(one.name) && one.value !== undefined) own.set(one.name, one.value);
    const lacking = (kinds) =>
      list.filter((one) => kinds.includes(one.kind) && !own.has(one.name)).map((one) => one.name);
    if (lacking(["any", "positional"]).length) throw missing(name, lacking(["any", "positional"]), "positional");
    if (lacking(["keyword"]).length) throw missing(name, lacking(["keyword"]), "keyword-only");
    return own;
  };

  /** Run an author's function. */
  language.run = function (called, given, named) {
    if (++depth > DEEPEST) throw (depth--, new PythonError("RecursionError", "maximum recursion depth exceeded"));
    const names = language.bind(called.name, called.parameters, given, named);
    const plain = called.body.type !== "Body";
    const frame = new Frame(
      called.doc,
      called.frame.globals,
      called.frame.globals === called.frame.names ? null : called.frame,
    );
    called.assigned ??= plain ? new Set() : assigned(called.body, called.doc);
    frame.assigned = new Set([...called.assigned, ...names.keys()]);
    frame.names = names;
    try {
      return plain ? language.evaluate(called.body, frame) : (language.execute(called.body, frame)?.value ?? null);
    } finally {
      depth--;
    }
  };

  /** Call a value. */
  language.invoke = function (callee, given, named) {
    if (callee instanceof Function_) return language.run(callee, given, named);
    if (callee instanceof Builtin) return callee.run(given, named);
    if (callee?.call_) return callee.call_(given, named);
    if (isSymbol(callee)) throw new PythonError("TypeError", "'Symbol' object is not callable");
    throw new PythonError("TypeError", `'${language.kindOf(callee)}' object is not callable`);
  };

  /** Count a step of reading, so that no text keeps a page busy without end. */
  language.spend = function (node, frame) {
    if (--fuel > 0) return;
    language.at = language.place(node, frame);
    throw new Refusal(told("endless", { most: steprule.facts.longest }));
  };

  language.refuel = function () {
    fuel = FUEL;
    depth = 0;
  };

  Object.assign(language, { Frame, Function: Function_, Builtin });
})((globalThis.steprule ??= {}));
