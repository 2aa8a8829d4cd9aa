/** A log of any length in the store of a world, by the way that a run's lines take. */
import type { RunRecord } from '../../protocol/files.ts'
import type { World } from '../api/world.ts'

const BATCH = 5_000

/** A machine with one granted order whose log has these lines; answers the order. */
export async function appendLines(
  world: World,
  name: string,
  count: number,
  textOf: (n: number) => string,
): Promise<string> {
  const machine = await world.machine(name)
  const change = await world.raise(`prod machines: ${name} outage:0`)
  await world.call('approve', 'bo', { params: { change }, body: { digest: await world.digest(change) } })
  while (machine.grants.length === 0) await new Promise((resolve) => setImmediate(resolve))
  const order = machine.grants.at(-1)?.order ?? ''
  let offset = 0
  for (let from = 1; from <= count; from += BATCH) {
    const records = Array.from({ length: Math.min(BATCH, count - from + 1) }, (_, index): RunRecord => {
      const text = `${textOf(from + index)}\n`
      offset += text.length
      return {
        n: from + index,
        at: 1_700_000_000_000 + from + index,
        type: 'line',
        step: 'install',
        offset: offset - text.length,
        text,
      }
    })
    await machine.say({ t: 'records', order, records })
  }
  return order
}
