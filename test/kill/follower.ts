/**
 * A client of the feed that stays over every crash of the coordinator: it takes up where it was cut off, and what it
 * was shown once must never be gone, come twice or have changed.
 */
import { createHash } from 'node:crypto'
import { WebSocket } from 'ws'
import { FEED_SUBPROTOCOL, type FeedFrame, type FeedRow } from '../../protocol/feed.ts'
import { type Reach, feedRows, until } from '../site/harness.ts'

export type Follower = {
  /** Reads the whole feed anew and compares, once all of it was shown; the answer names what is wrong. */
  readonly compare: () => Promise<string[]>
  readonly stop: () => void
}

const hashOf = (row: FeedRow) => createHash('sha256').update(JSON.stringify(row)).digest('base64')
const AGAIN_MS = 100

export function followFeed(site: Reach, violate: (text: string) => void): Follower {
  const seen: string[] = []
  let epoch = ''
  let isOver = false
  let socket: WebSocket | null = null
  const connect = (): void => {
    socket = new WebSocket(`ws+unix://${site.socket}:/feed?since=${seen.length}`, FEED_SUBPROTOCOL)
    socket.on('message', (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as FeedFrame
      if (frame.t === 'hello') {
        if (epoch !== '' && frame.epoch !== epoch) violate(`the feed has another epoch, ${frame.epoch}`)
        if (frame.rev < seen.length) violate(`row ${seen.length} was shown, and now the newest is ${frame.rev}`)
        epoch = frame.epoch
      } else {
        if (frame.row.rev !== seen.length + 1) violate(`row ${frame.row.rev} came after row ${seen.length}`)
        seen.push(hashOf(frame.row))
      }
    })
    // What went wrong does not matter: the close that follows is answered by the next try.
    socket.on('error', () => socket?.terminate())
    socket.on('close', () => {
      if (!isOver) setTimeout(connect, AGAIN_MS)
    })
  }
  connect()
  return {
    compare: async () => {
      const before = seen.length
      const rows = await feedRows(site, 0)
      await until(`row ${rows.length} of the feed to be shown to a follower`, () => seen.length >= rows.length)
      const shown = seen.slice(0, Math.max(before, rows.length))
      const changed = shown.findIndex((hash, index) => {
        const row = rows[index]
        return row === undefined || row.rev !== index + 1 || hashOf(row) !== hash
      })
      return changed < 0 ? [] : [`row ${changed + 1} of the feed is not what a follower was shown`]
    },
    stop: () => {
      isOver = true
      socket?.terminate()
    },
  }
}
