/**
 * The version of everything in this folder. Agents and coordinators of different ages meet on a site, so a change
 * of what they say to each other is never silent: test/protocol/protocol.test.ts hashes every schema, limit and
 * pattern of the folder and compares the hash with the last entry here. The names of the subprotocols carry the
 * version, so two sides that differ part at the handshake.
 */

export type ProtocolEntry = {
  readonly version: number
  /** True once a release carried it: from then on its hash is never rewritten, and a change is a new version. */
  readonly released: boolean
  /** SHA-256 over the description of all that protocol/ exports. */
  readonly hash: string
  /** What changed against the version before, and what the other side notices of it. */
  readonly change: string
}

/** One entry per version, oldest first. */
export const PROTOCOL_HISTORY: readonly ProtocolEntry[] = [
  {
    version: 1,
    released: false,
    hash: 'f1aa65161a3d2f22fc6928797784bf8b2bcb6d1be94c2c9bdfc426d12f13b1b5',
    change: 'The first version: enrolment, sessions, plans, signed grants, records, the feed and the HTTP interface.',
  },
]

export const PROTOCOL_VERSION = 1
