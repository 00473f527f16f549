// A notebook of code cells, connected to a kernel of the Jupyter server that the page comes from.

const WIDGETS = "jupyter.widget";
const strings = new TextDecoder();

/** Decode a message of the kernel's socket: JSON, or offsets, JSON and binary buffers. */
function decode(data) {
  if (typeof data === "string") return { buffers: [], ...JSON.parse(data) };
  const view = new DataView(data);
  const offsets = Array.from({ length: view.getUint32(0) }, (_, i) => view.getUint32(4 * (i + 1)));
  const [text, ...buffers] = offsets.map((start, i) => data.slice(start, offsets[i + 1] ?? data.byteLength));
  return { ...JSON.parse(strings.decode(text)), buffers };
}

/** Connect to a kernel: {session, id, raw(data), send(type, content, buffers), hear(f), mirror(f)}. */
export async function connect(id) {
  const session = crypto.randomUUID(), hearers = [], mirrors = [];
  const socket = new WebSocket(`ws://${location.host}/api/kernels/${id}/channels?session_id=${session}`);
  socket.binaryType = "arraybuffer";
  await new Promise((done, fail) => { socket.onopen = done; socket.onerror = fail; });
  socket.onmessage = ({ data }) => {
    const message = decode(data);
    for (const f of hearers) f(message, data);
  };
  const send = (msg_type, content, msg_id = crypto.randomUUID()) => {
    const header = { msg_id, msg_type, session, username: "", version: "5.3", date: new Date().toISOString() };
    const message = { header, parent_header: {}, metadata: {}, content, channel: "shell", buffers: [] };
    for (const f of mirrors) f(message);
    socket.send(JSON.stringify(message));
    return msg_id;
  };
  return {
    session, id, send, raw: (data) => socket.send(data),
    hear: (f) => hearers.push(f), mirror: (f) => mirrors.push(f),
  };
}

/** Put the binary buffers of a message where its state has them. */
export function filled({ content, buffers }) {
  const { state, buffer_paths = [] } = content.data;
  buffer_paths.forEach((path, i) => {
    const owner = path.slice(0, -1).reduce((part, key) => part[key], state);
    owner[path.at(-1)] = new DataView(buffers[i]);
  });
  return state;
}

export const isWidget = ({ content }) => content.target_name === WIDGETS;

/** Make a notebook; `show(cell, output, {data, metadata})` draws an output, also again when its content changes. */
export function notebook(kernel, show) {
  const running = new Map(), displays = new Map();
  let cells = 0, outputs = 0;

  const draw = (cell, content) => {
    const output = outputs++, name = content.transient?.display_id;
    if (name) displays.set(name, [...(displays.get(name) ?? []), [cell, output]]);
    show(cell, output, content);
  };
  kernel.hear((message) => {
    const { header, parent_header, content } = message;
    if (header.msg_type === "update_display_data")
      for (const [cell, output] of displays.get(content.transient.display_id) ?? []) show(cell, output, content);
    const request = running.get(parent_header.msg_id);
    if (!request) return;
    const { cell } = request;
    if (header.msg_type === "execute_reply") request.end(content);
    else if (header.msg_type === "stream") request.text += content.text;
    else if (cell === null) return;
    else if (header.msg_type === "display_data" || header.msg_type === "execute_result") draw(cell, content);
    else if (header.msg_type === "error") draw(cell, { data: { "text/plain": `${content.ename}: ${content.evalue}` } });
  });
  const execute = async (code, cell) => {
    const id = crypto.randomUUID(), request = { cell, text: "" };
    running.set(id, request);
    const reply = new Promise((end) => { request.end = end; });
    kernel.send("execute_request", { code, silent: false, store_history: cell !== null, allow_stdin: false }, id);
    const { status, ename, evalue } = await reply;
    if (status !== "ok") throw new Error(`${ename}: ${evalue}`);
    return request;
  };
  return {
    /** Run code as a new cell; return the number of the cell when it has ended. */
    run: async (code) => {
      const cell = cells++;
      await execute(code, cell);
      return cell;
    },
    /** Run code beside the cells; return what it prints. */
    ask: async (code) => {
      const request = await execute(code, null);
      await new Promise((done) => setTimeout(done, 100)); // what was printed comes on another channel than the reply
      return request.text.trimEnd();
    },
  };
}
