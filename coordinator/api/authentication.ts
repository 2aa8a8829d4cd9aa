/**
 * Who is calling: a person by token or by a session in a browser, or the admin socket, which has nobody behind it. Called by the routes before a
 * body is read, and by the feed before a WebSocket is made. A valid token is always let in, whatever others at its
 * address did: pausing and cancelling must not wait for anybody's failures to be forgotten.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { Refusal } from '../../protocol/errors.ts'
import { PERSON_HEADER, PERSON_TOKEN_PATTERN } from '../../protocol/http.ts'
import type { Actor } from '../domain/state.ts'
import type { View } from '../driver.ts'
import type { Clock } from '../ports.ts'
import { unauthenticated } from './roles.ts'
import { type WebSessions, refuseOtherSite } from './web-sessions.ts'

export type Channel = 'tls' | 'socket'
/** By `tokenHash` and `session` a long-lived connection asks again later whether what let it in still holds. */
export type Caller = { readonly actor: Actor; readonly tokenHash: string | null; readonly session: string | null }
export type Authentication = { readonly caller: Caller | null; readonly refusal: Refusal | null }
export type Authenticator = {
  /** `isRead`: what is asked for changes nothing. */
  readonly authenticate: (
    channel: Channel,
    headers: IncomingHttpHeaders,
    from: { readonly address: string; readonly isRead: boolean },
  ) => Authentication
  /** Whether what let a caller in still does. */
  readonly stillHolds: (caller: Caller) => boolean
  /** The person behind a token and the cookie of a new session; null for no valid token, or one of a bot. */
  readonly openSession: (token: string) => { readonly person: Person; readonly cookie: string } | null
  readonly endSession: (session: string) => void
  readonly noteFailure: (address: string) => Refusal
}

export type Person = Extract<Actor, { kind: 'person' }>

const WINDOW_MS = 60_000
const ADDRESSES_MAX = 10_000
const LOCAL_ADMIN: Caller = { actor: { kind: 'local-admin' }, tokenHash: null, session: null }

export function createAuthenticator(ports: {
  readonly view: View
  readonly clock: Pick<Clock, 'monotonicNow'>
  /** The coordinator's own time: a token that has expired stays so when the wall clock is set back. */
  readonly now: () => number
  readonly sha256: (text: string) => string
  readonly failuresMax: number
  readonly sessions: WebSessions
}): Authenticator {
  const { sessions } = ports
  const noteFailure = countFailures(ports)
  const { personOf, actFor } = peopleOf(ports.view, ports.now)

  /** A cookie counts only where no token was sent, and never as a guess: a browser sends an old one by itself. */
  function bySession(headers: IncomingHttpHeaders, isRead: boolean): Authentication {
    const session = sessions.find(headers)
    const person = session === null ? null : personOf(session.tokenHash)
    if (session === null || person === null) return { caller: null, refusal: null }
    const refusal = refuseOtherSite(headers, isRead)
    const { key, tokenHash } = session
    return { caller: refusal === null ? { actor: person, tokenHash, session: key } : null, refusal }
  }

  const authenticate: Authenticator['authenticate'] = (channel, headers, { address, isRead }) => {
    const header = headers.authorization
    const name = headers[PERSON_HEADER]
    if (header === undefined && name !== undefined)
      return { caller: null, refusal: notActingFor('the admin socket acts for nobody') }
    if (header === undefined && channel === 'socket') return { caller: LOCAL_ADMIN, refusal: null }
    if (header === undefined) return bySession(headers, isRead)
    const token = /^Bearer +(\S+)$/i.exec(header)?.[1] ?? ''
    // Whatever came is hashed and looked up, so that no kind of bad token is told from another by its time; the
    // lookup is by hash, so its time says nothing about the token itself.
    const tokenHash = ports.sha256(token)
    const person = personOf(tokenHash)
    if (person === null || !PERSON_TOKEN_PATTERN.test(token)) return { caller: null, refusal: noteFailure(address) }
    if (name === undefined) return { caller: { actor: person, tokenHash, session: null }, refusal: null }
    const actor = actFor(person, String(name))
    const isPerson = 'roles' in actor
    return isPerson ? { caller: { actor, tokenHash, session: null }, refusal: null } : { caller: null, refusal: actor }
  }

  return {
    authenticate,
    noteFailure,
    stillHolds: ({ tokenHash, session }) =>
      (tokenHash === null || personOf(tokenHash) !== null) && (session === null || sessions.holds(session)),
    openSession: (token) => {
      const tokenHash = ports.sha256(token)
      const person = PERSON_TOKEN_PATTERN.test(token) ? personOf(tokenHash) : null
      if (person === null || person.roles.includes('bot')) return null
      return { person, cookie: sessions.open({ user: person.name, tokenHash }) }
    },
    endSession: sessions.end,
  }
}

/** Answers each failure of an address with its refusal: beyond a number in a minute it is asked to wait. */
function countFailures({
  clock,
  failuresMax,
}: {
  readonly clock: Pick<Clock, 'monotonicNow'>
  readonly failuresMax: number
}): Authenticator['noteFailure'] {
  const failures = new Map<string, { count: number; since: number }>()
  return (address) => {
    const key = addressKey(address)
    const now = clock.monotonicNow()
    const known = failures.get(key)
    const entry = known === undefined || now - known.since >= WINDOW_MS ? { count: 0, since: now } : known
    entry.count += 1
    // Set anew, so that the map stays in the order of use and the eldest is the first to go.
    failures.delete(key)
    failures.set(key, entry)
    const eldest = failures.size > ADDRESSES_MAX ? failures.keys().next() : undefined
    if (eldest !== undefined && eldest.done !== true) failures.delete(eldest.value)
    if (entry.count <= failuresMax) return unauthenticated()
    return {
      kind: 'too-many',
      message: `more than ${failuresMax} failed authentications in a minute from this address`,
      remedy: 'wait a minute, and check the token before trying again',
    }
  }
}

/** Who is behind a token, and for whom a bot may speak. */
function peopleOf(view: View, now: () => number) {
  function personNamed(name: string | undefined): (Person & { readonly tokenHash: string }) | null {
    const user = name === undefined ? undefined : view.get('users', name)
    if (user === undefined || user.revokedAt !== null) return null
    if (user.expiresAt !== null && user.expiresAt <= now()) return null
    return { kind: 'person', name: user.name, roles: user.roles, tokenHash: user.tokenHash }
  }

  function personOf(tokenHash: string): Person | null {
    const user = personNamed(view.get('tokens', tokenHash)?.user)
    return user?.tokenHash === tokenHash ? { kind: 'person', name: user.name, roles: user.roles } : null
  }

  /** A bot's call in the name of a person: with the roles that this person has here now, and no others. */
  function actFor(bot: Person, name: string): Person | Refusal {
    if (!bot.roles.includes('bot')) return notActingFor(`${bot.name} is no bot and acts for nobody else`)
    const person = personNamed(name)
    if (person === null || person.roles.includes('bot'))
      return notActingFor(`${name.slice(0, 100)} is nobody here for whom a bot could act`)
    return { kind: 'person', name: person.name, roles: person.roles, via: bot.name }
  }

  return { personOf, actFor }
}

function notActingFor(message: string): Refusal {
  const remedy = 'a bot names an active person (smith user list), with a token of the role bot'
  return { kind: 'not-allowed', message, remedy }
}

/** IPv4 as it is written, also on a socket that takes both families (RFC 4291 section 2.5.5.2). */
export function plainAddress(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, '')
}

/** One holder of addresses: an IPv4 address, or the /64 that an IPv6 site has at hand (RFC 6177). */
export function addressKey(address: string): string {
  const plain = plainAddress(address)
  if (!plain.includes(':')) return plain
  const [head = '', tail] = plain.split('::')
  const heads = head === '' ? [] : head.split(':')
  const tails = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - heads.length - tails.length)
  return [...heads, ...Array.from({ length: zeros }, () => '0'), ...tails].slice(0, 4).join(':')
}
