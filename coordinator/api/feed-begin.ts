/**
 * Where a client of the feed begins, read from its handshake. Called by feed.ts before anything is sent. A client
 * names the last row it has (`since`) and the epoch in which that row was numbered; numbers of another epoch mean
 * other rows, so such a client is told that what it holds is void and gets only what comes from now on.
 */
import type { IncomingMessage } from 'node:http'
import type { Refusal } from '../../protocol/errors.ts'
import { FEED_SUBPROTOCOL } from '../../protocol/feed.ts'
import { ID_PATTERN } from '../../protocol/ids.ts'

/** `since` is the last row that it will not get. */
export type Begin =
  | { readonly ok: true; readonly since: number; readonly resumed: boolean }
  | { readonly ok: false; readonly refusal: Refusal }

export function beginOf(request: IncomingMessage, newest: { readonly epoch: string; readonly rev: number }): Begin {
  const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((one) => one.trim())
  if (!offered.includes(FEED_SUBPROTOCOL)) {
    return no(
      'version',
      `the subprotocol ${FEED_SUBPROTOCOL} was not offered`,
      `offer ${FEED_SUBPROTOCOL}; upgrade the program that follows the feed`,
    )
  }
  const query = new URLSearchParams((request.url ?? '').split('?').slice(1).join('?'))
  const keys = [...query.keys()]
  const unknown = keys.find((key) => key !== 'since' && key !== 'epoch')
  if (unknown !== undefined)
    return no('unknown-key', `${unknown.slice(0, 100)} is not known here`, 'the feed takes since and epoch')
  if (new Set(keys).size < keys.length)
    return no('duplicate-key', 'a key of the query stands twice', 'give since and epoch once')
  const since = query.get('since')
  const epoch = query.get('epoch')
  if (epoch !== null && !ID_PATTERN.test(epoch))
    return no('bad-value', 'epoch is none', 'leave it out, or give the one of the last hello')
  if (since !== null && !/^[0-9]{1,15}$/.test(since))
    return no('bad-value', 'since is no revision', 'give the rev of the last row, or 0 for all')
  if (epoch !== null && epoch !== newest.epoch) return { ok: true, since: newest.rev, resumed: false }
  if (since === null) return { ok: true, since: newest.rev, resumed: true }
  if (Number(since) > newest.rev) {
    return no(
      'bad-value',
      `since=${since} is beyond the newest row ${newest.rev}`,
      'begin anew without since: the database was restored, or the number is wrong',
    )
  }
  return { ok: true, since: Number(since), resumed: true }
}

function no(kind: Refusal['kind'], message: string, remedy: string): Begin {
  return { ok: false, refusal: { kind, message, remedy } }
}
