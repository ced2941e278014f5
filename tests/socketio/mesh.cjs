// A service and an assistant's console with the stock client, as the original's mesh client and its console call the mesh:
// prints one JSON object with what each of them saw.
"use strict";
const { io } = require("socket.io-client");

const { BASE, TOKEN, STRANGER, ORG, TRANSPORTS } = process.env;
const options = { forceNew: true, reconnectionDelay: 50, timeout: 10000, transports: TRANSPORTS.split(",") };
const once = (socket, name) => new Promise((done) => socket.once(name, (...args) => done(args)));
const node = (id) => ({ id, name: id, type: "service", capabilities: ["x"], endpoint: "" });

// Registers in the same tick as it connects, on every connect.
function client(id, token, orgId) {
  const socket = io(BASE, { ...options, auth: { token, orgId } });
  const received = [];
  socket.on("event:received", (event) => received.push(event.wrapper.id));
  const registered = new Promise((done) => socket.on("connect", () => socket.emit("node:register", node(id), done)));
  return { socket, received, registered };
}

async function main() {
  const console_ = io(BASE, { ...options, auth: { token: TOKEN } });
  const signs = [];
  for (const name of ["joined", "left"]) console_.on(`network:node:${name}`, (d) => signs.push([name, d.nodeId]));
  console_.on("network:contract:created", (contract) => signs.push(["contract", contract.from]));
  const watched = [];
  console_.on("sdn:event", (seen) => watched.push(seen));
  const watch = await console_.emitWithAck("sdn:watch", { runId: "run-stock" });

  const a = client("stock-a", TOKEN);
  const b = client("stock-b", TOKEN);
  const registered = [await a.registered, await b.registered];
  const impostor = client("stock-b", STRANGER, ORG);
  const impostors = await impostor.registered;
  const nobody = client("stock-b", undefined);
  const nobodys = await nobody.registered;

  const beat = await a.socket.emitWithAck("node:heartbeat", { nodeId: "stock-a" });
  const unknown = await a.socket.emitWithAck("node:heartbeat", { nodeId: "nowhere" });
  const contract = await a.socket.emitWithAck("contract:create",
    { from: "stock-a", to: "stock-b", allowedEventTypes: ["message.*", "obs.*"], boundaries: ["intra"] });
  const send = (type) => a.socket.emitWithAck("event:send",
    { payload: { type, data: { n: 1 } }, source: "stock-a", runId: "run-stock", boundary: "intra" });
  const sent = await send("message.new");
  while (!b.received.includes(sent.eventId)) await once(b.socket, "event:received");
  const passed = await send("obs.http.request");
  while (watched.length < 2) await once(console_, "sdn:event");
  const malformed = [];
  for (const bad of [null, "text", {}, { source: "stock-a", runId: "r" }, { payload: null, source: "stock-a", runId: "r" }, 7]) {
    malformed.push(await a.socket.emitWithAck("event:send", bad));
  }
  const topology = await new Promise((done) => console_.emit("sdn:topology", done));

  // The connection is lost; the client comes back by itself and registers again.
  const back = new Promise((done) => b.socket.on("connect", () => b.socket.emit("node:register", node("stock-b"), done)));
  b.socket.io.engine.close();
  await back;
  const again = await send("message.again");
  while (!b.received.includes(again.eventId)) await once(b.socket, "event:received");

  const unwatched = [await a.socket.emitWithAck("sdn:unwatch", { subscriptionId: watch.subscriptionId }),
    await console_.emitWithAck("sdn:unwatch", { subscriptionId: watch.subscriptionId })];
  const unregistered = [await b.socket.emitWithAck("node:unregister", { nodeId: "stock-b" }),
    await a.socket.emitWithAck("node:unregister", { nodeId: "stock-a" })];
  while (signs.filter(([name]) => name === "left").length < 2) await once(console_, "network:node:left");
  const transport = a.socket.io.engine.transport.name;
  for (const socket of [a.socket, b.socket, console_, impostor.socket, nobody.socket]) socket.close();
  console.log(JSON.stringify({ registered, impostors, nobodys, beat, unknown, contract, sent, passed, again, malformed,
    received: b.received, stolen: [...impostor.received, ...nobody.received], signs, watch, watched, unwatched, unregistered,
    topology, transport }));
}

setTimeout(() => { console.error("nothing happens any more"); process.exit(1); }, 60000).unref();
main().catch((error) => { console.error(error); process.exit(1); });
