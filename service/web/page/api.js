// The service's endpoints. Addresses are relative, so that the page works behind a proxy's prefix.

const PATIENCE = 30_000; // ms

let key = null; // in memory only

export const useKey = (given) => { key = given; };

/** An error of the service (RFC 9457), or of the way to it. */
export class Problem extends Error {
  constructor(status, { detail, code, field = null }) {
    super(detail);
    Object.assign(this, { status, code, field });
  }
}

export const getModels = async () => (await ask("models")).models;

export const getStats = () => ask("stats");

export const act = (body) =>
  ask("act", {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", Accept: "application/json", ...(key && { Authorization: `Bearer ${key}` }) },
  });

async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store", ...options });
  } catch (error) {
    const detail = error.name === "TimeoutError" ? "the server has not answered for 30 s" : "the server can't be reached";
    throw new Problem(0, { detail, code: "unreachable" });
  }
  const body = await response.json().catch(() => ({ detail: response.statusText, code: String(response.status) }));
  if (!response.ok) throw new Problem(response.status, body);
  return body;
}
