// Statements of Python: what a rule's body and the text around it are made of.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { PythonError, Refusal, Sequence, evaluate, place, isSymbol } = language;
  const { told } = language.text;
  const SIGNAL = { next: { next: true }, stop: { stop: true } };

  /** Give targets, of which there may be several between commas, a value. */
  language.assign = function (kids, value, frame) {
    const single = kids.filter((kid) => kid.type !== ",");
    if (kids.length > 1 || ["TupleExpression", "ArrayExpression"].includes(single[0].type)) {
      return unpack(kids, value, frame);
    }
    const [target] = single;
    if (target.type === "ParenthesizedExpression") return language.assign([target.kids[1]], value, frame);
    if (target.type === "VariableName") return language.setName(frame.doc.slice(target), value, frame);
    return setMember(target, value, frame);
  };

  function setMember(target, value, frame) {
    const owner = evaluate(target.kids[0], frame);
    language.at = place(target, frame);
    if (target.kids[1].type === "[") {
      if (isSymbol(owner)) throw language.valueless("setitem");
      return language.setItem(owner, language.valueOf(target.kids.slice(2, -1), frame), value);
    }
    const name = frame.doc.slice(target.kids[target.kids.length - 1]);
    throw new PythonError("AttributeError", `'${language.kindOf(owner)}' object has no attribute '${name}'`);
  }

  function unpack(kids, value, frame) {
    const nested = kids.length === 1 ? kids[0].kids.slice(1, -1) : kids;
    const targets = nested.filter((kid) => kid.type !== ",");
    language.at = place({ ...kids[0], to: kids[kids.length - 1].to }, frame);
    const items = language.iterate(value);
    const star = targets.findIndex((kid) => kid.type === "*");
    if (star >= 0) return unpackRest(targets, star, items, frame);
    if (items.length !== targets.length) {
      const few = `not enough values to unpack (expected ${targets.length}, got ${items.length})`;
      const many = `too many values to unpack (expected ${targets.length})`;
      throw new PythonError("ValueError", items.length < targets.length ? few : many);
    }
    targets.forEach((target, i) => language.assign([target], items[i], frame));
  }

  function unpackRest(targets, star, items, frame) {
    const after = targets.length - star - 2;
    targets.slice(0, star).forEach((target, i) => language.assign([target], items[i], frame));
    language.assign([targets[star + 1]], new language.List(items.slice(star, items.length - after)), frame);
    targets.slice(star + 2).forEach((target, i) => language.assign([target], items[items.length - after + i], frame));
  }

  function assignStatement(node, frame) {
    const parts = [[]];
    for (const kid of node.kids) {
      if (kid.type === "AssignOp") parts.push([]);
      else if (kid.type !== "TypeDef") parts[parts.length - 1].push(kid);
    }
    if (parts.length === 1) return null; // a name with a type and no value
    const value = language.valueOf(parts.pop(), frame);
    for (const targets of parts) language.assign(targets, value, frame);
    return null;
  }

  function updateStatement(node, frame) {
    const [target, sign, ...rest] = node.kids;
    const before = evaluate(target, frame);
    const value = language.valueOf(rest, frame);
    language.at = place(node, frame);
    language.assign([target], language.binary(frame.doc.slice(sign).slice(0, -1), before, value), frame);
    return null;
  }

  function ifStatement(node, frame) {
    let i = 0;
    while (i < node.kids.length) {
      if (node.kids[i].type === "else") return execute(node.kids[i + 1], frame);
      const clause = node.kids[i].type === "if" ? node : { ...node, from: node.kids[i].from };
      if (language.holds(node.kids[i + 1], frame, clause)) return execute(node.kids[i + 2], frame);
      i += 3;
    }
    return null;
  }

  function loop(node, frame, each) {
    const bodies = node.kids.filter((kid) => kid.type === "Body");
    for (const found of each()) {
      if (found === null) break;
      const signal = execute(bodies[0], frame);
      if (signal === SIGNAL.stop) return null;
      if (signal && signal !== SIGNAL.next) return signal;
    }
    return bodies[1] ? execute(bodies[1], frame) : null;
  }

  function forStatement(node, frame) {
    const upto = node.kids.findIndex((kid) => kid.type === "in");
    const over = node.kids.slice(
      upto + 1,
      node.kids.findIndex((kid) => kid.type === "Body"),
    );
    const value = language.valueOf(over, frame);
    language.at = place(node, frame);
    const items = language.iterate(value);
    return loop(node, frame, function* () {
      for (const item of items) {
        language.assign(node.kids.slice(1, upto), item, frame);
        yield true;
      }
    });
  }

  function whileStatement(node, frame) {
    return loop(node, frame, function* () {
      while (language.holds(node.kids[1], frame, node)) {
        language.spend(node, frame);
        yield true;
      }
    });
  }

  function decorated(node, frame) {
    const definition = node.kids[node.kids.length - 1];
    const decorators = node.kids.filter((kid) => kid.type === "Decorator");
    const makers = decorators.map((kid) => decorator(kid, frame));
    let made = language.defined(definition, frame);
    for (const [i, maker] of makers.reverse().entries()) {
      language.at = place(decorators[decorators.length - 1 - i], frame);
      made = language.invoke(maker, [made], new Map());
    }
    language.setName(frame.doc.slice(definition.kids.find((kid) => kid.type === "VariableName")), made, frame);
    return null;
  }

  /** The tree has a decorator's parts beside one another: names between points, then arguments. */
  function decorator(node, frame) {
    const names = node.kids.filter((kid) => ["VariableName", "PropertyName"].includes(kid.type));
    language.at = place(names[0], frame);
    let maker = language.lookUp(frame.doc.slice(names[0]), frame);
    for (const name of names.slice(1)) maker = language.attribute(maker, frame.doc.slice(name));
    const list = node.kids.find((kid) => kid.type === "ArgList");
    if (!list) return maker;
    const call = { type: "CallExpression", from: names[0].from, to: list.to, kids: [names[0], list] };
    return language.called(call, maker, frame);
  }

  function importStatement(node, frame) {
    language.at = place(node, frame);
    for (const one of language.imported(node, frame.doc)) {
      const module = language.module(one.from ?? one.name);
      if (one.from === undefined) language.setName(one.as, one.dotted ? module.root : module, frame);
      else if (one.name === "*") for (const [name, value] of module.starred()) language.setName(name, value, frame);
      else language.setName(one.as, language.attribute(module, one.name), frame);
    }
    return null;
  }

  /** List what an import statement imports: {from, name, as}. */
  language.imported = function (node, doc) {
    const words = doc
      .slice(node)
      .replace(/[()\\\n]/g, " ")
      .replace(/#.*$/gm, "");
    const [, , from, list] = /^(from\s+(\S+)\s+)?import\s+([\s\S]*)$/.exec(words) ?? [];
    return (list ?? "")
      .split(",")
      .filter((one) => one.trim())
      .map((one) => {
        const [name, as] = one.trim().split(/\s+as\s+/);
        const dotted = from === undefined && !as && name.includes(".");
        return { from, name, dotted, as: as ?? (dotted ? name.split(".")[0] : name) };
      });
  };

  function returnStatement(node, frame) {
    const kids = node.kids.slice(1);
    return { value: kids.length ? language.valueOf(kids, frame) : null };
  }

  function shared(node, frame) {
    const names = node.kids.filter((kid) => kid.type === "VariableName").map((kid) => frame.doc.slice(kid));
    names.forEach((name) => {
      frame.shared.add(name);
      frame.assigned.delete(name);
    });
    return null;
  }

  const STATEMENTS = new Map(
    Object.entries({
      ExpressionStatement: (node, frame) => void language.valueOf(node.kids, frame),
      AssignStatement: assignStatement,
      UpdateStatement: updateStatement,
      ReturnStatement: returnStatement,
      IfStatement: ifStatement,
      ForStatement: forStatement,
      WhileStatement: whileStatement,
      PassStatement: () => null,
      BreakStatement: () => SIGNAL.stop,
      ContinueStatement: () => SIGNAL.next,
      ImportStatement: importStatement,
      ScopeStatement: shared,
      StatementGroup: (node, frame) => execute(node, frame),
      DecoratedStatement: decorated,
      FunctionDefinition(node, frame) {
        const made = language.defined(node, frame);
        language.setName(made.name, made, frame);
        return null;
      },
      AssertStatement: () => null,
    }),
  );

  /** Run one statement; what it gives is a return, a break, or nothing. */
  language.statement = function (node, frame) {
    language.spend(node, frame);
    const rule = STATEMENTS.get(node.type);
    if (rule) return rule(node, frame) ?? null;
    language.at = place(node, frame);
    throw language.unread(node);
  };

  /** Run the statements of a body. */
  function execute(body, frame) {
    for (const kid of body.kids) {
      if (kid.type === ":" || kid.type === ";") continue;
      const signal = language.statement(kid, frame);
      if (signal) return signal;
    }
    return null;
  }

  /** Refuse what Python has and rules do not. */
  language.unread = function (node) {
    const words = node.type.replace(/(Statement|Expression|Definition)$/, "").toLowerCase();
    return new Refusal(told("unread", { words }));
  };

  language.execute = execute;
})((globalThis.steprule ??= {}));
