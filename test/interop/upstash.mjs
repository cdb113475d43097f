// A contender that locks with the npm package @upstash/lock. That package speaks to
// Redis through the client that it is given, of which it uses set, get and eval.
import net from "node:net";
import lock from "@upstash/lock";

const [redisPort, key, registerPort, name] = process.argv.slice(2);

// lines returns a function that sends a text and resolves to what parse makes of the
// answer; parse returns undefined while the answer is not whole. One request is
// under way at a time.
function connect(port, parse) {
  const socket = net.connect(Number(port), "127.0.0.1");
  socket.setNoDelay(true);
  let unread = "";
  let settle;
  const fail = (why) => {
    console.error(`${name}: ${why}`);
    process.exit(1);
  };
  socket.on("error", fail);
  socket.on("close", () => fail("the connection was closed"));
  socket.on("data", (data) => {
    unread += data.toString();
    const answer = parse(unread);
    if (answer !== undefined) {
      unread = "";
      settle(answer);
    }
  });
  return (text) =>
    new Promise((resolve) => {
      settle = resolve;
      socket.write(text);
    });
}

// reply reads one answer of Redis that is no array.
function reply(text) {
  const end = text.indexOf("\r\n");
  if (end < 0) return undefined;
  const head = text.slice(1, end);
  switch (text[0]) {
    case "+":
      return head;
    case ":":
      return Number(head);
    case "$": {
      const length = Number(head);
      if (length < 0) return null;
      return text.length < end + 4 + length ? undefined : text.slice(end + 2, end + 2 + length);
    }
  }
  throw new Error(text);
}

const send = connect(redisPort, reply);
const command = (...args) =>
  send(`*${args.length}\r\n` + args.map((arg) => `$${Buffer.byteLength(String(arg))}\r\n${arg}\r\n`).join(""));

const redis = {
  set: (key, value, { nx, px }) => command("SET", key, value, ...(nx ? ["NX"] : []), ...(px ? ["PX", px] : [])),
  get: (key) => command("GET", key),
  eval: (script, keys, args) => command("EVAL", script, keys.length, ...keys, ...args),
};

const register = connect(registerPort, (text) => (text.endsWith("\n") ? text.trim() : undefined));
const ours = new lock.Lock({ redis, id: key, lease: 60_000, retry: { attempts: 1_000_000, delay: 1 } });
for (let go = "go"; go === "go"; ) {
  if (!(await ours.acquire())) throw new Error("not acquired");
  await register(`enter ${name} 0\n`);
  if ((await ours.getStatus()) !== "ACQUIRED") throw new Error("the lock is not ours while we are inside");
  go = await register(`leave ${name}\n`);
  if (!(await ours.release())) throw new Error("the lock was not ours any more");
}
process.exit(0);
