// Advice: what to write instead of what a formula cannot say; rule/advice.py in JavaScript, with its words and tables.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { phrase, told, close } = language.text;

  /** The expression that an origin points at, without brackets; null if it is no expression of one line. */
  function found(at) {
    return at?.node ?? null;
  }

  /** Return the name of the function that a line calls, without its module; "" if it calls none. */
  function called(at) {
    const node = found(at);
    if (node?.type !== "CallExpression") return "";
    const [callee] = node.kids;
    const last = callee.kids[callee.kids.length - 1];
    if (callee.type === "VariableName") return at.doc.slice(callee);
    return last?.type === "PropertyName" ? at.doc.slice(last) : "";
  }

  function usage(name) {
    const { usage, ops } = language.tables();
    return usage.get(name) ?? (ops.get(name).kind === "chance" ? `${name}()` : `${name}(x)`);
  }

  /** Say what stands for a function or method of NumPy, torch or math. */
  function instead(name) {
    const plain = name.replace(/_+$/, "");
    const { facts } = language.known ?? (language.tables(), language.known);
    const { spelled } = language.tables();
    if (facts.needless.includes(plain)) return phrase("needless", { name });
    if (spelled.has(plain)) return phrase("spelled", { text: spelled.get(plain) });
    if (facts.functions.includes(plain)) return phrase("own", { usage: usage(plain), name: plain });
    const alike = close(plain, facts.functions);
    const meant = alike ? phrase("meant", { name: alike }) : "";
    return phrase("listed", { meant, listed: facts.functions.join(", ") });
  }

  function compares(node) {
    return node?.type === "BinaryExpression" && ["CompareOp", "in", "is", "not"].includes(node.kids[1].type);
  }

  function decidedBy(node) {
    if (node?.type === "BinaryExpression" && ["and", "or"].includes(node.kids[1].type)) return node.kids[1].type;
    if (node?.type === "UnaryExpression") return "not";
    if (!compares(node)) return "";
    const row = language.comparisons(node);
    if (row.operators[0].endsWith("in")) return "in";
    return row.operators.length > 1 ? "in a row" : "";
  }

  /** Say what to write where Python was to decide on a symbol. */
  function decision(at, hyper) {
    let node = found(at);
    const name = called(at);
    if (node?.type === "ConditionalExpression") node = language.bare(node.kids[2]);
    if (name === "min" || name === "max") {
      const least = name === "min";
      return phrase("least", { name: least ? "minimum" : "maximum", sign: least ? "<" : ">" });
    }
    const by = decidedBy(node);
    if (by) return phrase(by);
    if (hyper) return phrase("variant", { name: hyper });
    if (compares(node)) return phrase("chosen", { words: at.doc.text.slice(at.from, at.to).trim() });
    return phrase("any decision");
  }

  const OPERATORS = new Map([
    ...["floordiv", "rfloordiv", "divmod", "rdivmod"].map((name) => [name, "floordiv"]),
    ["rmatmul", "rmatmul"],
    ["xor", "xor"],
    ["rxor", "xor"],
    ["len", "len"],
  ]);

  /** Say what to write where Python's method of that name would need a value, a length or an index. */
  function withoutValue(method, at) {
    const name = called(at);
    const { facts } = language.known;
    const { spelled } = language.tables();
    if (OPERATORS.has(method)) return phrase(OPERATORS.get(method));
    if (name === "range" || (method === "index" && !name)) return phrase("fixed");
    if (["round", "floor", "ceil", "trunc"].includes(method)) return instead(method);
    if (["int", "float", "complex"].includes(name)) return phrase("typeless", { name });
    if (method === "iter" && ["sum", "max"].includes(name)) return phrase("builtin", { name });
    if (facts.functions.includes(name) || spelled.has(name)) return instead(name);
    const parts = ["iter", "getitem", "setitem", "delitem", "contains"];
    return parts.includes(method) ? phrase("whole") : instead(name);
  }

  /** Say how a function of the language is called. */
  function misused(name, error) {
    const { ops } = language.tables();
    const has = (text) => error.includes(text);
    if (name === "norm" && (has("'p'") || has("'ord'"))) return phrase("norms");
    if (["sum", "max"].includes(name) && has("positional") && !has("keyword") && !has("missing")) {
      return phrase("two values", { instead: name === "max" ? "maximum(a, b)" : "a + b", name });
    }
    if (ops.get(name)?.reducer) {
      return phrase("alone", { name, along: ops.get(name).kind === "tensor" ? phrase("along", { name }) : "" });
    }
    return phrase("spelled", { text: usage(name) });
  }

  /** Say what to do about Python's own errors in a rule. */
  function ofPython(error) {
    const name = called(error.at);
    const { facts } = language.known;
    if (error.kind === "UnboundLocalError") return phrase("assigned", { name: error.name_ });
    if (["NameError", "AttributeError"].includes(error.kind) && error.name_) return instead(error.name_);
    if (error.kind === "TypeError" && facts.functions.includes(name)) return misused(name, error.message);
    if (error.kind === "TypeError" && language.tables().spelled.has(name)) return instead(name);
    return phrase("Python", { listed: facts.functions.join(", ") });
  }

  /** Refuse to decide on a symbol. */
  language.undecided = function (symbol, at = language.at) {
    const hyper = symbol.node.op === "hyper" ? symbol.node.attr : "";
    return new language.Refusal(told("undecided", { fix: decision(at, hyper) }), at);
  };

  /** Refuse what needs a value, by the name of Python's method. */
  language.valueless = function (method) {
    return new language.Refusal(told("no value", { fix: withoutValue(method, language.at) }));
  };

  language.advice = { called, instead, ofPython };
})((globalThis.steprule ??= {}));
