/**
 * The write-ahead log of a real coordinator's database, cut at every frame and in the middle of each, as a power cut
 * may leave it: what is opened again is the state after the last turn that is in there whole, and nothing of another.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import type { Store } from '../../coordinator/ports.ts'
import { openSqliteStore } from '../../coordinator/store/sqlite.ts'
import { createWorld } from '../coordinator/harness.ts'
import { seededRandom } from './rows.ts'

/** Some hundred databases are opened, each with its fsyncs. */
t.setTimeout(600_000)
/** sqlite.org/fileformat2.html, "The Write-Ahead Log": a header, then frames of a header and a page. */
const WAL_HEADER_BYTES = 32
const FRAME_HEADER_BYTES = 24
const PAGE_SIZE_AT = 8

const openAt = (path: string) => openSqliteStore({ path, random: seededRandom(1), program: '0.1.0' })

/** All that a store says, but for its epoch. */
function stateOf(store: Store): string {
  const projects = store.projects({ limit: 100 })
  const orders = projects.flatMap((project) => store.orders({ project: project.id }))
  const live = [...store.load()].map((row) => JSON.stringify(row)).toSorted()
  const records = orders.map((order) => store.records({ order: order.id, after: 0, limit: 1000 }))
  return JSON.stringify([
    store.rev(),
    store.lastAt(),
    live,
    projects,
    orders,
    records,
    store.journal({ since: 0, limit: 10_000 }),
  ])
}

t.test(
  '[STO-90] a write-ahead log cut at and inside each frame opens as the last turn that is whole',
  { timeout: 500_000 },
  async (t) => {
    const folder = t.testdir({ live: {} })
    const path = `${folder}/live/smith.db`
    const states = new Map([[0, stateOf(openEmpty(folder))]])
    const ends = [{ rev: 0, bytes: 0 }]
    const inner = openAt(path)
    t.teardown(() => inner.close())
    const store: Store = {
      ...inner,
      commit: (turn) => {
        void inner.commit(turn)
        states.set(turn.rev, stateOf(inner))
        ends.push({ rev: turn.rev, bytes: statSync(`${path}-wal`).size })
      },
    }
    const world = await createWorld({ machines: ['prod-dal10-web-1', 'prod-dal10-web-2'], store: () => store })
    const change = await world.begin('prod machines: prod-dal10-web-* outage:0')
    for (const name of ['prod-dal10-web-1', 'prod-dal10-web-2']) await world.agent(name).succeed()
    t.match(world.brief(change), /^complete/)

    // By another process: a descriptor of the live file that this one closed would take its lock along.
    t.equal(spawnSync('cp', ['-r', `${folder}/live`, `${folder}/copy`]).status, 0)
    const wal = readFileSync(`${folder}/copy/smith.db-wal`)
    const frameBytes = FRAME_HEADER_BYTES + wal.readUInt32BE(PAGE_SIZE_AT)
    const frames = (wal.length - WAL_HEADER_BYTES) / frameBytes
    t.ok(
      Number.isInteger(frames) &&
        ends.every(({ bytes }, index) => index === 0 || bytes > (ends[index - 1]?.bytes ?? 0)),
    )
    const seen = new Set<number>()
    for (let frame = 0; frame <= frames; frame += 1) {
      const boundary = WAL_HEADER_BYTES + frame * frameBytes
      const inside = [boundary + Math.floor(frameBytes / 2)].filter((at) => at < wal.length)
      for (const bytes of [boundary, ...inside]) {
        const wanted = ends.findLast((end) => end.bytes <= bytes)?.rev ?? 0
        await opensAs(t, folder, bytes, { rev: wanted, state: states.get(wanted) })
        seen.add(wanted)
      }
    }
    t.equal(seen.size, states.size, `every turn was the last whole one of some cut: ${seen.size} of ${states.size}`)
    t.ok(frames > 100, `${frames} frames`)
  },
)

function openEmpty(folder: string): Store {
  mkdirSync(`${folder}/empty`)
  const store = openAt(`${folder}/empty/smith.db`)
  return store
}

async function opensAs(
  t: Test,
  folder: string,
  bytes: number,
  wanted: { readonly rev: number; readonly state: string | undefined },
): Promise<void> {
  const cut = `${folder}/cut`
  cpSync(`${folder}/copy`, cut, { recursive: true })
  truncateSync(`${cut}/smith.db-wal`, bytes)
  const store = openAt(`${cut}/smith.db`)
  if (stateOf(store) !== wanted.state) t.fail(`cut at ${bytes}: revision ${store.rev()} instead of ${wanted.rev}`)
  // The real core goes on from there, and whatever it writes passes the invariants.
  const world = await createWorld({ store: () => store })
  if (world.fatal.length > 0) t.fail(`cut at ${bytes}: ${String(world.fatal[0])}`)
  store.close()
  const db = new Database(`${cut}/smith.db`)
  if (db.pragma('integrity_check', { simple: true }) !== 'ok') t.fail(`cut at ${bytes}: the database is damaged`)
  db.close()
  rmSync(cut, { recursive: true })
}
