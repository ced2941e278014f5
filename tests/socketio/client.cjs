// Two people with the stock client: prints one JSON object with what each of them saw.
"use strict";
const { io } = require("socket.io-client");

const { BASE, ADA, GRACE, CONVERSATION, TRANSPORTS } = process.env;
const transports = TRANSPORTS.split(",");
const options = { transports, forceNew: true, reconnectionDelay: 50, timeout: 10000 };
const events = ["message:new", "message:updated", "message:deleted", "stream.pause", "typing:started", "typing:stopped",
  "presence:changed", "participant:online"];

const once = (socket, name) => new Promise((done) => socket.once(name, (...args) => done(args)));

async function main() {
  const refused = io(BASE, { ...options, auth: { token: null }, reconnection: false });
  const [error] = await once(refused, "connect_error");
  refused.close();

  // The callback answers a call that is made before the connection stands.
  const ada = io(BASE, { ...options, auth: { token: ADA } });
  const joined = await ada.emitWithAck("join:conversation", CONVERSATION);
  // And one that is made in the same tick as it does, however often somebody connects.
  const early = await Promise.all(Array.from({ length: 20 }, () => new Promise((done) => {
    const socket = io(BASE, { ...options, auth: { token: ADA } });
    socket.on("connect", () => socket.emit("join:conversation", CONVERSATION, (answer) => {
      socket.close();
      done(answer.success);
    }));
  })));
  let position = null;
  const grace = io(BASE, { ...options, auth: (give) => give({ token: GRACE, position }) });
  await once(grace, "opened");
  const heard = [];
  for (const name of events) {
    grace.on(name, (data, mark) => {
      if (mark) position = mark.position;
      heard.push([name, name === "message:new" ? data.content : name === "presence:changed" ? data.status : null]);
    });
  }
  const heardOf = (name) => new Promise((done) => grace.on(name, done));

  // Who is busy from the last time is told of by nobody when they are busy still.
  const present = [await ada.emitWithAck("presence:update", "away"), await ada.emitWithAck("presence:update", "busy"), await ada.emitWithAck("announce:presence", CONVERSATION)];
  while (!heard.some(([name, status]) => name === "presence:changed" && status === "busy")) await once(grace, "presence:changed");

  ada.emit("typing:start", CONVERSATION);
  await heardOf("typing:started");
  const sent = await ada.emitWithAck("message:send", { conversationId: CONVERSATION, content: "helo" });
  const edited = await ada.emitWithAck("message:edit", { messageId: sent.message.id, content: "hello" });
  const deleted = await ada.emitWithAck("message:delete", sent.message.id);
  const control = await ada.emitWithAck("control:send", { conversationId: CONVERSATION, event: "stream.pause" });
  const outsider = await ada.emitWithAck("message:send", { conversationId: "nowhere", content: "x" });
  const paused = heard.some(([name]) => name === "stream.pause") || (await heardOf("stream.pause"));

  // The connection is lost; the client comes back by itself and names its last position.
  const back = once(grace, "opened");
  grace.io.engine.close();
  for (const content of ["one", "two", "three"]) {
    await ada.emitWithAck("message:send", { conversationId: CONVERSATION, content });
  }
  await back;
  await ada.emitWithAck("message:send", { conversationId: CONVERSATION, content: "last" });
  while (!heard.some(([, content]) => content === "last")) await once(grace, "message:new");
  const transport = grace.io.engine.transport.name;
  ada.close();
  grace.close();
  console.log(JSON.stringify({ refused: error.message, joined, early, sent, edited, deleted, control, outsider, present, paused: !!paused,
    heard, transport }));
}

setTimeout(() => { console.error("nothing happens any more"); process.exit(1); }, 60000).unref();
main().catch((error) => { console.error(error); process.exit(1); });
