// The fields for a hook point's shape, and the feature expression that the typed values spell.

/** Return a text in double quotes, as the feature grammar reads it. */
export function quoted(text) {
  const seen = (c) => /[\p{L}\p{N}\p{P}\p{S}]/u.test(c) || /[\ud800-\udfff]/.test(c);
  const code = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[^\x20-\x7e]/g, (c) => (seen(c) ? c : code(c)));
}

/** Return the text of a direction after @: a path, or numbers as float32 in base64. */
export function directionText(typed) {
  const text = typed.trim().replace(/^\[|\]$/g, "");
  const numbers = text.split(/[\s,]+/).filter(Boolean).map(Number);
  if (!text || numbers.some(Number.isNaN)) return quoted(typed.trim());
  const bytes = new Uint8Array(Float32Array.from(numbers).buffer);
  let binary = "";
  bytes.forEach((byte) => (binary += String.fromCharCode(byte)));
  return quoted(`data:float32,${btoa(binary)}`);
}

function axes(shape) {
  const positions = shape.filter((size) => size === "position").length;
  const units = shape.flatMap((size, i) => (size === "position" ? [] : [i]));
  let seen = 0;
  return shape.map((size, i) => {
    if (size === "position") {
      seen += 1;
      const label = positions < 2 ? "position" : seen === 1 ? "query position" : "key position";
      return { name: label.replace(" ", "_"), label, position: true, several: positions > 1 };
    }
    const last = i === units[units.length - 1];
    const head = units.length === 2 ? !last : positions > 1;
    const label = head ? "head" : last ? "unit" : `axis ${i}`;
    return { name: label.replace(" ", "_"), label, size, unit: last && !head };
  });
}

/** Return the fields for a shape, with the values typed so far: {name, label, kind, value, help, options, min, max}. */
export function fieldsOf(shape, typed) {
  const fields = [];
  const all = axes(shape);
  for (const axis of all) {
    if (axis.position) {
      if (!axis.several) {
        const options = [["at", "at one position"], ["max", "maximum over the prompt"], ["mean", "mean over the prompt"]];
        fields.push({ name: "reduce", label: "positions", options, value: typed.reduce ?? "at" });
        if ((typed.reduce ?? "at") !== "at") continue;
      }
      const help = "0 is the first token after BOS, -1 is the last token";
      fields.push({ name: axis.name, label: axis.label, kind: "number", value: typed[axis.name] ?? "-1", help });
    } else if (axis.unit) {
      const how = typed.how ?? "unit";
      const options = [["unit", "one unit"], ["direction", "along a direction"]];
      fields.push({ name: "how", label: "unit or direction", options, value: how });
      if (how === "unit") fields.push(index(axis, typed));
      else {
        const help = `a .npy or .safetensors file, or ${axis.size} numbers separated by commas`;
        fields.push({ name: "direction", label: "direction", kind: "text", value: typed.direction ?? "", help });
        const formula = "subtract the mean, divide by the standard deviation (Eq. 4)";
        const value = Boolean(typed.standardised);
        fields.push({ name: "standardised", label: "standardised", kind: "check", value, help: formula });
      }
    } else fields.push(index(axis, typed));
  }
  return fields;
}

function index({ name, label, size }, typed) {
  return { name, label, kind: "number", value: typed[name] ?? "0", min: 0, max: size - 1, help: `0 to ${size - 1}` };
}

/** Return the text of the feature that the fields describe. */
export function expressionOf(hook, shape, typed) {
  const all = axes(shape);
  const single = all.filter((axis) => axis.position).length === 1;
  const reduce = single && (typed.reduce ?? "at") !== "at" ? typed.reduce : "";
  const along = (typed.how ?? "unit") === "direction" && all.some((axis) => axis.unit);
  const elements = all
    .filter((axis) => !(along && axis.unit))
    .map((axis, i) => {
      if (axis.position && reduce) return i ? ":" : "...";
      return typed[axis.name]?.trim() || (axis.position ? "-1" : "0");
    });
  const whole = !elements.length || (elements.length === 1 && elements[0] === "...");
  const read = whole ? hook : `${hook}[${elements.join(", ")}]`;
  if (!along) return reduce ? `${read}.${reduce}()` : read;
  const standard = typed.standardised ? ".standardised()" : "";
  const projected = `${read}${standard} @ ${directionText(typed.direction ?? "")}`;
  return reduce ? `(${projected}).${reduce}()` : projected;
}

function token(text) {
  return quoted(text.replace(/^(["'])([^]*)\1$/, "$2"));
}

export const QUICK = [
  {
    name: "neuron",
    label: "neuron",
    help: "layer and number: MLP neuron 17 of layer 2 is L2.N17",
    initial: "L2.N17",
    write: (text) => text.trim(),
  },
  {
    name: "logit",
    label: "logit of a token",
    help: "with its leading space, if it has one; quotes are optional",
    initial: '" the"',
    write: (text) => `logit(${token(text)})`,
  },
  {
    name: "log_prob",
    label: "log-probability of a token",
    help: "with its leading space, if it has one; quotes are optional; a text of several tokens is read after the prompt",
    initial: '" the"',
    write: (text) => `log_prob(${token(text)})`,
  },
];
