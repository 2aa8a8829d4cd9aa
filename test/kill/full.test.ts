/**
 * Small real disks that are filled under real programs: the coordinator's in the middle of its work, and a machine's
 * in the middle of an install. What was answered stays, what is wrong is said, and with room again all goes on.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { RequestView } from '../../protocol/http.ts'
import {
  approve,
  call,
  isOver,
  machinesOf,
  machinesWith,
  online,
  ordersOf,
  outputOf,
  outputOn,
  publish,
  raise,
  recordsOf,
  startSite,
  statusOf,
  until,
  untilStatus,
} from '../site/harness.ts'
import { NO_SMALL_DISK, mountSmallDisk } from './small-disk.ts'

t.setTimeout(900_000)
const named = (name: string) => (NO_SMALL_DISK === false ? name : `${name} (skipped: ${NO_SMALL_DISK})`)
/** Enough for some turns. */
const LAST_BYTES = 262_144
const MACHINE = 'prod-dal10-web-1'

t.test(
  named('[KIL-4] a coordinator whose disk is full ends and says so; what it answered is there, and it goes on'),
  { skip: NO_SMALL_DISK },
  async (t) => {
    const site = await startSite(t)
    await site.coordinator?.stop()
    const disk = mountSmallDisk(t, 24, join(site.dir, 'coordinator'))
    await site.startCoordinator()
    await publish(site, [{ name: 'hello', version: '1.1' }])
    await machinesWith(site, [MACHINE], [await site.build({ name: 'hello', version: '1.0' })])
    const ended = site.coordinator?.ended
    disk.fill(LAST_BYTES)
    const answered: string[] = []
    const ask = async () => {
      try {
        const { status, body } = await call<RequestView>(site, 'POST', '/requests', {
          text: `prod machines: ${MACHINE} outage:0`,
          preview: true,
        })
        if (status < 400) answered.push(body.request)
        return undefined
      } catch (error) {
        // The connection broke: the coordinator is ending.
        return error instanceof Error
      }
    }
    await until('the end of the coordinator', ask)
    t.not((await ended)?.status, 0)
    const said = readFileSync(site.coordinatorLog, 'utf8')
    t.match(said, /SQLITE_FULL|disk is full|no space/i)

    t.ok(answered.length > 0, `${answered.length} requests were answered`)

    disk.free()
    await site.startCoordinator()
    await online(site, MACHINE)
    for (const request of answered) {
      const found = await call<RequestView>(site, 'GET', `/requests/${request}`)
      t.equal(found.status, 200, `request ${request} was answered and is there`)
    }
    const change = await raise(site, `prod machines: ${MACHINE} outage:0`)
    await approve(site, change)
    const done = await untilStatus(site, change, 'its end', (status) => isOver(status) || status.stop?.kind === 'hold')
    t.equal(done.state, 'complete')
  },
)

t.test(
  named('[KIL-5] a machine whose disk is full in the middle of an install keeps every line, and ends with the truth'),
  { skip: NO_SMALL_DISK },
  async (t) => {
    const site = await startSite(t, { limits: 'prefetch_ahead = 0' })
    const disk = mountSmallDisk(t, 24, join(site.dir, 'small'))
    await publish(site, [{ name: 'hello', version: '1.1', behaviours: [{ type: 'gate', file: 'run/gate' }] }])
    const config = '\n[limits]\nfree_bytes = 1024\n'
    const [machine] = await machinesWith(site, [MACHINE], [await site.build({ name: 'hello', version: '1.0' })], {
      config,
      stateDir: disk.dir,
    })
    if (machine === undefined) throw new Error('no machine')
    const change = await raise(site, `prod machines: ${MACHINE} outage:0`)
    await approve(site, change)
    await machine.root.gate('run/gate').reached()
    disk.keepFull()
    await machine.root.gate('run/gate').open()
    await until('apt to have ended', async () => (await machine.root.status('hello'))?.state === 'install ok installed')
    const isSaid = () => /ENOSPC|no space/i.test(readFileSync(machine.logFile, 'utf8'))
    await until('a word about the full disk', async () => isSaid() || isOver(await statusOf(site, change)))
    if (!isOver(await statusOf(site, change))) t.ok(isSaid(), 'the log that people read on the machine says it')
    disk.free()
    const done = await untilStatus(site, change, 'its end', (status) => isOver(status) || status.stop?.kind === 'hold')
    t.equal(done.state, 'complete', JSON.stringify(machinesOf(done)))
    for (const { order } of await ordersOf(site, change)) {
      const records = await recordsOf(site, order)
      t.ok(outputOf(records).equals(outputOn(machine, order)))
      t.strictSame(
        records.map((record) => record.n),
        records.map((_, index) => index + 1),
      )
    }
  },
)
