/**
 * What a session needs of a connection, whatever carries it: websocket.ts makes one of a socket, a simulator of two
 * queues. The session logic sees nothing else of the network.
 */
export type Link = {
  /** The address from which the connection comes, as the kernel says. */
  readonly address: string
  readonly send: (text: string) => void
  /** Says why, then ends; `reason` has at most CLOSE_REASON_BYTES_MAX bytes. Harmless when it is closed already. */
  readonly close: (code: number, reason: string) => void
  /** Ends at once, for a peer that would not hear a reason. */
  readonly terminate: () => void
  /** Until `resume`, nothing more is read from the peer; what was read already may still come. */
  readonly pause: () => void
  readonly resume: () => void
  /** Bytes that were sent and that the peer's side has not taken yet. */
  readonly bufferedBytes: () => number
}

/** What the connection tells its session. None of them throws. */
export type LinkEvents = {
  readonly onMessage: (data: string | Uint8Array, isBinary: boolean) => void
  /** Bytes that were read, counted before they are put together to messages. */
  readonly onBytes: (count: number) => void
  /** The peer broke the rules of the transport itself: a fragment, an oversized message, a control frame flood. */
  readonly onBroken: (problem: string) => void
  /** The connection is no more. Comes once, last. */
  readonly onClosed: (reason: string) => void
}

/** RFC 6455 section 5.5: a control frame carries 125 bytes, two of which are the code. */
export const CLOSE_REASON_BYTES_MAX = 123

/** Cuts a reason to what a close frame can carry, at the end of a character. */
export function closeReason(text: string): string {
  const bytes = new TextEncoder().encode(text)
  if (bytes.length <= CLOSE_REASON_BYTES_MAX) return text
  let end = CLOSE_REASON_BYTES_MAX - 3
  // 10xxxxxx is a byte in the middle of a character (RFC 3629 section 3).
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1
  return `${new TextDecoder().decode(bytes.subarray(0, end))}...`
}
