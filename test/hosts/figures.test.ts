/**
 * What an idle agent costs a booted host, by the command that anyone can run there. The bounds are of memory and of
 * wake-ups, which the speed of the machine does not change. Skipped by name where no host can be booted.
 */
import t from 'tap'
import type { Figures } from '../../agent/figures.ts'
import { online } from '../site/harness.ts'
import { until } from './commands.ts'
import type { Host } from './host.ts'
import { describeStatus, publishBuild, startHostSite, startPatch, untilSettled } from './scenario.ts'
import { whyNoHosts } from './base.ts'

const skip = whyNoHosts() ?? false
t.setTimeout(900_000)

const NAME = 'prod-dal10-carrier3-worker-1'
/** Anonymous memory: measured 14.6 to 15.3 MB (16.0 with execa), 17.9 before anything was done about it; after a run 19.4 to 21.2. */
const IDLE_BYTES_MAX = 16_500_000
const AFTER_RUN_BYTES_MAX = 24_000_000
/** Each side pings every 15 s and answers, and Node's other threads wake now and then; a poll of 200 ms would be 300. */
const WAKE_UPS_PER_MINUTE_MAX = 60
/** Only ends a test that would hang. */
const GIVE_UP_MS = 300_000

t.test('[HST-70] what an idle agent costs, before a run of 20,000 lines and after it', { skip }, async (t) => {
  const site = await startHostSite(t)
  await publishBuild(site, 'prod', [{ name: 'hello', version: '1.1', behaviours: [{ type: 'chatty', lines: 20_000 }] }])
  const host = await site.addHost(NAME, { installed: [await site.build({ name: 'hello', version: '1.0' })] })
  await online(site, NAME)
  const idle = await untilIdle(host, IDLE_BYTES_MAX)
  const sizes = [idle.anonymousBytes, idle.proportionalBytes, idle.residentBytes, idle.diskBytes ?? 0]
  t.strictSame(
    sizes,
    sizes.toSorted((a, b) => a - b),
    'what is its own, its share, what is resident, what is on the disk: each is more than the one before',
  )

  const done = await untilSettled(site, await startPatch(site, 'prod', [NAME]))
  t.equal(done.state, 'complete', describeStatus(done))
  const after = await untilIdle(host, AFTER_RUN_BYTES_MAX)
  t.equal(after.pid, idle.pid, 'the same process has become small again')
  t.comment(JSON.stringify({ idle, after }))

  t.match(
    await host.run(['setpriv', '--reuid=nobody', '--clear-groups', 'smith-agent', 'figures']),
    { status: 1, stderr: /do: Run the command as root/ },
    'who may not look is told so',
  )
})

/** A quarter of a minute within the bounds. An agent that keeps its memory, or polls, never has one. */
async function untilIdle(host: Host, anonymousBytesMax: number): Promise<Figures> {
  let last: Figures | null = null
  try {
    return await until(
      'an idle agent',
      async () => {
        last = JSON.parse(await host.must(['smith-agent', 'figures', '--minutes', '0.25', '--json'])) as Figures
        const isIdle = last.anonymousBytes < anonymousBytesMax && last.wakeUpsPerMinute < WAKE_UPS_PER_MINUTE_MAX
        return isIdle ? last : null
      },
      GIVE_UP_MS,
    )
  } catch (error) {
    throw new Error(`${(error as Error).message}; last seen: ${JSON.stringify(last)}`, { cause: error })
  }
}
