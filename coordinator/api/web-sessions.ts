/**
 * The sessions of people in a browser: made from a personal token, carried by a cookie that no script can read and no
 * other site can ride. Called by authentication.ts. A session never outlives its token or its time; only the hash of
 * its cookie is kept, in the store, so that a restart of the coordinator logs nobody out.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { Refusal } from '../../protocol/errors.ts'
import type { Random, Store } from '../ports.ts'

const PREFIX = 'web-session/'
/** Beyond these the eldest of the person ends. */
const PER_PERSON_MAX = 20

type Kept = { readonly user: string; readonly tokenHash: string; readonly until: number; readonly epoch: string }

export type WebSession = { readonly key: string; readonly tokenHash: string }
export type WebSessions = {
  /** The value of the Set-Cookie header. */
  readonly open: (person: { readonly user: string; readonly tokenHash: string }) => string
  readonly find: (headers: IncomingHttpHeaders) => WebSession | null
  readonly holds: (key: string) => boolean
  readonly end: (key: string) => void
}

/**
 * Bound to this host and to TLS by its prefix (RFC 6265bis section 4.1.3.2). Cookies know no ports (RFC 6265 section
 * 8.5), so that instances on one host each need a name of their own.
 */
export function sessionCookie(instance: string): string {
  return `__Host-smith-${instance}`
}

/** The Set-Cookie header that makes a browser forget its session. */
export function expiredCookie(instance: string): string {
  return `${sessionCookie(instance)}=; ${ATTRIBUTES}; Max-Age=0`
}

const ATTRIBUTES = 'Path=/; Secure; HttpOnly; SameSite=Strict'

export function createWebSessions(ports: {
  readonly store: Pick<Store, 'ledger' | 'epoch'>
  readonly random: Random
  readonly now: () => number
  readonly sha256: (text: string) => string
  readonly lifeMs: number
  readonly instance: string
}): WebSessions {
  const { store, now, lifeMs } = ports
  const { ledger, epoch } = store
  const name = sessionCookie(ports.instance)
  // What was restored from a backup may have been ended since.
  const isGood = (kept: Kept) => kept.until > now() && kept.epoch === epoch
  const keptAt = (key: string) => {
    const kept = ledger.get(key) as Kept | undefined
    return kept !== undefined && isGood(kept) ? kept : null
  }
  return {
    open: ({ user, tokenHash }) => {
      const secret = Buffer.from(ports.random.bytes(32)).toString('base64url')
      const all = ledger.list(PREFIX).map(({ key, doc }) => ({ key, kept: doc as Kept }))
      const mine = all.filter(({ kept }) => kept.user === user && isGood(kept))
      const eldest = mine.toSorted((a, b) => a.kept.until - b.kept.until).slice(0, -PER_PERSON_MAX + 1)
      const over = [...all.filter(({ kept }) => !isGood(kept)), ...(mine.length < PER_PERSON_MAX ? [] : eldest)]
      const kept: Kept = { user, tokenHash, until: now() + lifeMs, epoch }
      ledger.put([...over.map(({ key }) => [key, null] as const), [PREFIX + ports.sha256(secret), kept]])
      return `${name}=${secret}; ${ATTRIBUTES}; Max-Age=${Math.ceil(lifeMs / 1000)}`
    },
    find: (headers) => {
      const secret = cookieOf(headers, name)
      if (secret === null) return null
      const key = PREFIX + ports.sha256(secret)
      const kept = keptAt(key)
      return kept === null ? null : { key, tokenHash: kept.tokenHash }
    },
    holds: (key) => keptAt(key) !== null,
    end: (key) => ledger.put([[key, null]]),
  }
}

function cookieOf({ cookie }: IncomingHttpHeaders, name: string): string | null {
  const found = (cookie ?? '').split(';').map((one) => one.trim())
  return found.find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1) ?? null
}

/**
 * Whether another site's page may be behind a request that the browser itself gave our cookie to. SameSite=Strict
 * keeps the cookie from those already; this holds where a browser does not know it. `isRead`: it changes nothing.
 */
export function refuseOtherSite(headers: IncomingHttpHeaders, isRead: boolean): Refusal | null {
  const site = headers['sec-fetch-site']
  const isOwn = headers.origin === undefined ? isRead : headers.origin === `https://${headers.host ?? ''}`
  if (isOwn && (site === undefined || site === 'same-origin')) return null
  return {
    kind: 'not-allowed',
    message: 'a session is only used by the pages of this coordinator',
    subject: 'Origin',
    remedy: "open the dashboard at the coordinator's own address, or use a token",
  }
}
