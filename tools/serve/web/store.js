// Conversations in IndexedDB: what a conversation is in one store, its messages in another, so that an answer that
// grows is written alone. Where there is no IndexedDB they live as long as the page.

const NAME = "geb-chat";
let opened;
const memory = { conversations: new Map(), messages: new Map() };

function open() {
  opened ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open(NAME, 1);
    } catch {
      return resolve(null);
    }
    request.onupgradeneeded = () => {
      const db = request.result;
      db.createObjectStore("conversations", { keyPath: "id" });
      db.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
    };
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => resolve(null);
  });
  return opened;
}

/** Whether what is written outlives the page. */
export async function lasts() {
  return (await open()) !== null;
}

/** Does `work` with both stores in one transaction; its request's result. */
async function within(mode, work) {
  const db = await open();
  return new Promise((resolve, reject) => {
    const change = db.transaction(["conversations", "messages"], mode);
    const request = work(change.objectStore("conversations"), change.objectStore("messages"));
    change.oncomplete = () => resolve(request?.result);
    change.onerror = change.onabort = () => reject(change.error ?? new Error("the browser's storage refuses"));
  });
}

// Tokens are one text: to copy tens of thousands of small objects would be seen.
const packed = (message) => ({ ...message, tokens: message.tokens?.length ? JSON.stringify(message.tokens) : "" });
const unpacked = (message) => ({ ...message, tokens: message.tokens ? JSON.parse(message.tokens) : [] });

/** All conversations without their messages, newest first. */
export async function list() {
  const all = (await lasts()) ? await within("readonly", (c) => c.getAll()) : [...memory.conversations.values()];
  return all.sort((a, b) => b.updated - a.updated);
}

/** The messages of a conversation. */
export async function messages(id) {
  if (!(await lasts())) return [...memory.messages.values()].filter((m) => m.conversation === id);
  const found = await within("readonly", (_, m) => m.index("conversation").getAll(id));
  return found.map(unpacked);
}

/** Writes what a conversation is, and some of its messages. */
export async function put(conversation, changed = []) {
  if (await lasts()) {
    await within("readwrite", (c, m) => {
      for (const message of changed) m.put(packed(message));
      return c.put(conversation);
    });
  } else {
    memory.conversations.set(conversation.id, conversation);
    for (const message of changed) memory.messages.set(message.id, message);
  }
}

/** Writes a message that grows, without its tokens. */
export async function putPart(message) {
  if (await lasts()) await within("readwrite", (_, m) => m.put({ ...message, tokens: "" }));
}

/** Deletes a conversation. */
export async function remove(id) {
  if (await lasts()) {
    await within("readwrite", (c, m) => {
      c.delete(id);
      const cursor = m.index("conversation").openKeyCursor(IDBKeyRange.only(id));
      cursor.onsuccess = () => {
        if (!cursor.result) return;
        m.delete(cursor.result.primaryKey);
        cursor.result.continue();
      };
    });
  } else {
    memory.conversations.delete(id);
    for (const message of await messages(id)) memory.messages.delete(message.id);
  }
}

/** Deletes everything. */
export async function clear() {
  memory.conversations.clear();
  memory.messages.clear();
  if (await lasts()) {
    await within("readwrite", (c, m) => {
      c.clear();
      m.clear();
    });
  }
}
