// Python's own values, as far as rules use them: whole numbers are BigInt, floats are numbers, texts are strings.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { isSymbol, apply, PythonError, number } = language;
  const { repr } = language.text;
  const BITS = 20000n;

  class Sequence {
    constructor(items) {
      this.items = items;
    }
  }
  class List extends Sequence {
    kind = "list";
    repr() {
      return `[${this.items.map(repr).join(", ")}]`;
    }
  }
  class Tuple extends Sequence {
    kind = "tuple";
    repr() {
      return `(${this.items.map(repr).join(", ")}${this.items.length === 1 ? "," : ""})`;
    }
  }
  class Dict {
    kind = "dict";
    constructor(items) {
      this.items = items;
    }
    repr() {
      return `{${[...this.items].map(([key, value]) => `${repr(key)}: ${repr(value)}`).join(", ")}}`;
    }
  }

  function kindOf(value) {
    if (value === null) return "NoneType";
    const plain = { bigint: "int", number: "float", string: "str", boolean: "bool" }[typeof value];
    return plain ?? value.kind ?? "object";
  }

  const isNumber = (value) => ["bigint", "number", "boolean"].includes(typeof value);
  const whole = (value) => typeof value === "bigint" || typeof value === "boolean";

  function unsupported(sign, a, b) {
    const name = sign === "**" ? "** or pow()" : sign;
    return new PythonError("TypeError", `unsupported operand type(s) for ${name}: '${kindOf(a)}' and '${kindOf(b)}'`);
  }

  function zero(message) {
    return new PythonError("ZeroDivisionError", message);
  }

  function power(a, b) {
    if (b < 0n) return realPower(Number(a), Number(b));
    if (b * BigInt(a.toString(2).length) > BITS) throw new PythonError("OverflowError", "int too large");
    return a ** b;
  }

  function realPower(a, b) {
    if (a === 0 && b < 0) throw zero("0.0 cannot be raised to a negative power");
    if (a < 0 && !Number.isInteger(b))
      throw new PythonError("ValueError", "a complex number is no number of a formula");
    const found = Math.abs(a) === 1 && !Number.isNaN(a) && !Number.isFinite(b) ? 1 : a ** b;
    if (!Number.isFinite(found) && Number.isFinite(a) && Number.isFinite(b)) {
      throw new PythonError("OverflowError", "(34, 'Numerical result out of range')");
    }
    return a === 1 ? 1 : found;
  }

  const WHOLE = new Map(
    Object.entries({
      "+": (a, b) => a + b,
      "-": (a, b) => a - b,
      "*": (a, b) => a * b,
      "**": power,
      "/": (a, b) => quotient(Number(a), Number(b), "division by zero"),
      "//": (a, b) => (divided(b, "integer division or modulo by zero"), (a - remainder(a, b)) / b),
      "%": (a, b) => (divided(b, "integer modulo by zero"), remainder(a, b)),
      "&": (a, b) => a & b,
      "|": (a, b) => a | b,
      "^": (a, b) => a ^ b,
    }),
  );

  function divided(b, message) {
    if (b === 0n) throw zero(message);
  }

  function remainder(a, b) {
    const rest = a % b;
    return rest !== 0n && rest < 0n !== b < 0n ? rest + b : rest;
  }

  function quotient(a, b, message) {
    if (b === 0) throw zero(message);
    return a / b;
  }

  function modulo(a, b) {
    if (b === 0) throw zero("float modulo");
    const rest = a % b;
    return rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest;
  }

  const REAL = new Map(
    Object.entries({
      "+": (a, b) => a + b,
      "-": (a, b) => a - b,
      "*": (a, b) => a * b,
      "**": realPower,
      "/": (a, b) => quotient(a, b, "float division by zero"),
      "//": (a, b) => (quotient(a, b, "float floor division by zero"), Math.floor((a - modulo(a, b)) / b + 0.25)),
      "%": modulo,
    }),
  );

  function real(value) {
    const found = number(value);
    if (typeof value === "bigint" && !Number.isFinite(found)) {
      throw new PythonError("OverflowError", "int too large to convert to float");
    }
    return found;
  }

  function joined(sign, a, b) {
    if (sign === "+" && typeof a === "string" && typeof b === "string") return a + b;
    if (sign === "+" && a instanceof Sequence && b?.constructor === a.constructor) {
      return new a.constructor([...a.items, ...b.items]);
    }
    if (sign === "*" && a instanceof Sequence && whole(b)) return repeated(a, b);
    if (sign === "*" && b instanceof Sequence && whole(a)) return repeated(b, a);
    throw unsupported(sign, a, b);
  }

  function repeated(sequence, times) {
    const count = Number(times);
    if (count * sequence.items.length > 100000) throw new PythonError("MemoryError", "");
    return new sequence.constructor(Array.from({ length: Math.max(count, 0) }, () => sequence.items).flat());
  }

  /** The operations of Python's signs: those of the table, and what its methods are called. */
  function ofSign(sign) {
    const names = steprule.facts.signs;
    return Object.hasOwn(names, sign) ? names[sign] : null;
  }

  /** Compute an operation of two values, of which symbols make the graph. */
  function binary(sign, a, b) {
    if (isSymbol(a) || isSymbol(b)) return symbolic(sign, a, b);
    if (whole(a) && whole(b) && WHOLE.has(sign)) return WHOLE.get(sign)(BigInt(a), BigInt(b));
    if (isNumber(a) && isNumber(b) && REAL.has(sign)) return REAL.get(sign)(real(a), real(b));
    return joined(sign, a, b);
  }

  function symbolic(sign, a, b) {
    const op = ofSign(sign);
    const method = new Map([
      ["//", "floordiv"],
      ["^", "xor"],
    ]).get(sign);
    if (method) throw language.valueless(isSymbol(a) ? method : "r" + method);
    if (op === null) throw unsupported(sign, a, b);
    if (op === "matmul" && !isSymbol(a)) throw language.valueless("rmatmul");
    return apply(op, [a, b]);
  }

  const SWAPPED = new Map([
    ["<", ">"],
    [">", "<"],
    ["<=", ">="],
    [">=", "<="],
    ["==", "=="],
    ["!=", "!="],
  ]);

  function equal(a, b) {
    if (isNumber(a) && isNumber(b)) return whole(a) && whole(b) ? BigInt(a) === BigInt(b) : number(a) === number(b);
    if (a instanceof Sequence && b instanceof Sequence) {
      const same = a.constructor === b.constructor && a.items.length === b.items.length;
      return same && a.items.every((item, i) => truth(compare("==", item, b.items[i])));
    }
    return a === b;
  }

  function ordered(sign, a, b) {
    const comparable = (isNumber(a) && isNumber(b)) || (typeof a === "string" && typeof b === "string");
    if (!comparable) {
      const kinds = `'${kindOf(a)}' and '${kindOf(b)}'`;
      throw new PythonError("TypeError", `'${sign}' not supported between instances of ${kinds}`);
    }
    if (sign === "<") return a < b;
    if (sign === ">") return a > b;
    return sign === "<=" ? a <= b : a >= b;
  }

  function contains(container, value) {
    if (isSymbol(container)) throw language.valueless("contains");
    if (typeof container === "string") return container.includes(value);
    const items = iterate(container);
    return items.some((item) => item === value || truth(compare("==", item, value)));
  }

  /** Compare two values as Python's sign does. */
  function compare(sign, a, b) {
    if (sign === "is") return a === b;
    if (sign === "is not") return a !== b;
    if (sign === "in" || sign === "not in") return contains(b, a) === (sign === "in");
    if (isSymbol(a)) return apply(ofSign(sign), [a, b]);
    if (isSymbol(b)) return apply(ofSign(SWAPPED.get(sign)), [b, a]);
    if (sign === "==" || sign === "!=") return equal(a, b) === (sign === "==");
    return ordered(sign, a, b);
  }

  /** Whether Python takes a value as true; nobody knows of a symbol. */
  function truth(value, at) {
    if (isSymbol(value)) throw language.undecided(value, at);
    if (value instanceof Sequence) return value.items.length > 0;
    if (value instanceof Dict) return value.items.size > 0;
    return value !== null && value !== false && value !== "" && (!isNumber(value) || number(value) !== 0);
  }

  /** List what Python iterates over. */
  function iterate(value) {
    if (isSymbol(value)) throw language.valueless("iter");
    if (value instanceof Sequence) return value.items;
    if (value instanceof Dict) return [...value.items.keys()];
    if (typeof value === "string") return [...value];
    throw new PythonError("TypeError", `'${kindOf(value)}' object is not iterable`);
  }

  function unary(sign, value) {
    if (isSymbol(value)) return sign === "+" ? value : apply(sign === "-" ? "neg" : "not", [value]);
    if (!isNumber(value)) {
      throw new PythonError("TypeError", `bad operand type for unary ${sign}: '${kindOf(value)}'`);
    }
    if (sign === "~") return ~BigInt(value);
    const own = typeof value === "boolean" ? BigInt(value) : value;
    return sign === "-" ? -own : own;
  }

  Object.assign(language, {
    Sequence,
    List,
    Tuple,
    Dict,
    kindOf,
    isNumber,
    whole,
    binary,
    unary,
    compare,
    truth,
    iterate,
    real,
  });
})((globalThis.steprule ??= {}));
