/** A small real disk that is filled under the store: what was committed stays, and with room again it goes on. */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openSqliteStore } from '../../coordinator/store/sqlite.ts'
import { RefusedError } from '../../protocol/errors.ts'
import { NO_SMALL_DISK, mountSmallDisk } from '../kill/small-disk.ts'
import { append, id, machine, put, seededRandom, turn } from './rows.ts'

const openAt = (path: string) => openSqliteStore({ path, random: seededRandom(1), program: '0.1.0' })
const name = '[STO-91] a disk that is full: nothing committed is lost, it is said, and with room it goes on'

t.test(NO_SMALL_DISK === false ? name : `${name} (skipped: ${NO_SMALL_DISK})`, { skip: NO_SMALL_DISK }, async (t) => {
  const disk = mountSmallDisk(t, 4)
  const path = join(disk.dir, 'smith.db')
  const ballast = join(disk.dir, 'ballast')
  writeFileSync(ballast, Buffer.alloc(1_048_576))
  const committer = new URL('../store/committer.ts', import.meta.url).pathname
  const done = spawnSync(process.execPath, [committer, path, 'until-it-fails'], { encoding: 'utf8' })
  const report = JSON.parse(done.stdout.trim().split('\n').at(-1) ?? '{}') as Record<string, unknown>
  t.match(report, { kind: 'io', message: /SQLITE_(FULL|IOERR)/, next: 'closed' })
  const committed = Number(report['committed'])
  t.ok(committed > 10, `${committed} turns were committed before the disk was full`)

  disk.fill()
  t.equal(revisionWhileFull(t, path) ?? committed, committed, 'on a full disk it is there, or is refused with a remedy')
  disk.free()
  writeFileSync(ballast, '')
  const store = openAt(path)
  t.teardown(() => store.close())
  t.equal(store.rev(), committed)
  t.equal(store.records({ order: id('o'), after: 0, limit: 100_000 }).length, committed)
  const next = committed + 1
  await store.commit(turn(next, [put.machine(machine('a', { counter: next }))], [append('o', next, 1)]))
  t.equal(store.get('machines', id('a'))?.counter, next)
})

/** Either it opens and has all, or it is refused with the remedy; whichever SQLite can do without a byte. */
function revisionWhileFull(t: Test, path: string): number | null {
  try {
    const store = openAt(path)
    const rev = store.rev()
    store.close()
    return rev
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error
    t.match(error.refusals, [{ message: /full|disk I\/O error/, remedy: /has room/ }])
    return null
  }
}
