/** What the route of the coordinator's own log does. Called by handlers.ts. */
import { CHANGE_PATTERN, MACHINE_NAME_PATTERN } from '../../protocol/ids.ts'
import { numberOf, refuse } from './bodies.ts'
import type { Handlers } from './calls.ts'
import type { ApiPorts } from './ports.ts'

const PAGE_MAX = 1000
const NUMBER_MAX = 999_999_999_999_999

export function serviceLog({ serviceLog: log }: ApiPorts): Pick<Handlers, 'serviceLog'> {
  return {
    serviceLog: ({ query }) => {
      const numbers = [
        numberOf(query, 'after', { fallback: 0, min: 0, max: NUMBER_MAX }),
        numberOf(query, 'since', { fallback: 0, min: 0, max: NUMBER_MAX }),
        numberOf(query, 'limit', { fallback: PAGE_MAX, min: 1, max: PAGE_MAX }),
      ]
      const [after = 0, since = 0, limit = PAGE_MAX] = numbers.map((one) => (one.ok ? one.value : undefined))
      const refusals = numbers.flatMap((one) => (one.ok ? [] : one.refusals))
      if (refusals.length > 0) return { ok: false, refusals }
      const { change = null, machine = null } = query
      if (change !== null && !CHANGE_PATTERN.test(change))
        return refuse('bad-value', 'change is no number of a change', 'give CHG and seven digits', 'change')
      if (machine !== null && !MACHINE_NAME_PATTERN.test(machine))
        return refuse('bad-value', 'machine is no name of a machine', 'give a whole name', 'machine')
      if (log === undefined)
        return refuse('unavailable', 'this coordinator keeps no log of its own', 'look where its output goes')
      return { ok: true, value: log({ after, since, limit, change, machine }) }
    },
  }
}
