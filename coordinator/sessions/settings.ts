/**
 * The bounds of the agents' sessions, and the bucket that keeps one agent within its share. Read by session.ts and
 * sessions.ts; the composition sets them from `[limits]`. An honest agent that is fast is slowed down by not being
 * read for a moment; only what no honest agent sends ends a connection.
 */
export type SessionSettings = {
  /** Connections that have not proved a key yet: of all addresses, and of one. */
  readonly unauthenticatedMax: number
  readonly unauthenticatedPerAddressMax: number
  /** What may come in before a key is proved: the HTTP upgrade is not counted, the proof is some 400 bytes. */
  readonly unauthenticatedBytesMax: number
  /** From the connection to the hello. */
  readonly authMs: number
  /** How long a machine's older connection may take to show that it is alive when a newer one says hello. */
  readonly takeoverMs: number
  readonly pingMs: number
  /** A peer that was silent for so long is gone. */
  readonly deadMs: number
  /** More than so many bytes that the peer does not take, for so long, and it is dropped. */
  readonly bufferedBytesMax: number
  readonly bufferedMsMax: number
  /** A pong is only put on a socket with less than this waiting, so that pings can't fill memory. */
  readonly pongBufferedBytesMax: number
  /** The socket is not read while more than so many frames wait for the core. */
  readonly queuedFramesMax: number
  readonly messagesPerSecondMax: number
  readonly bytesPerSecondMax: number
}

export const SESSION_SETTINGS: SessionSettings = {
  unauthenticatedMax: 256,
  unauthenticatedPerAddressMax: 8,
  unauthenticatedBytesMax: 16_384,
  authMs: 5_000,
  takeoverMs: 3_000,
  pingMs: 15_000,
  deadMs: 45_000,
  bufferedBytesMax: 1_048_576,
  bufferedMsMax: 10_000,
  pongBufferedBytesMax: 65_536,
  queuedFramesMax: 16,
  messagesPerSecondMax: 200,
  bytesPerSecondMax: 2_097_152,
}

/**
 * A bucket that may be overdrawn: what has come in is always handled, and the answer is how long to read nothing.
 * It holds one second's worth, so a burst of that size costs no wait.
 */
export type Bucket = { readonly take: (now: number, cost: number) => number }

export function createBucket(perSecond: number): Bucket {
  let level = perSecond
  let filledAt: number | null = null
  return {
    take: (now, cost) => {
      if (filledAt !== null) level = Math.min(perSecond, level + (Math.max(0, now - filledAt) * perSecond) / 1000)
      filledAt = now
      level -= cost
      return level >= 0 ? 0 : Math.ceil((-level * 1000) / perSecond)
    },
  }
}
