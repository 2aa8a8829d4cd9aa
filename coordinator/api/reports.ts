/** What the routes of health reports do. Called by handlers.ts. */
import { ID_PATTERN } from '../../protocol/ids.ts'
import { journalName } from '../domain/planning.ts'
import { refuse } from './bodies.ts'
import type { Hand, Handlers } from './calls.ts'
import type { ApiPorts } from './ports.ts'
import { findMachine } from './views.ts'

export function reports(ports: ApiPorts, { submit }: Hand): Pick<Handlers, 'reportAsk' | 'report' | 'reportFile'> {
  const machineOf = (name: string) => {
    const machine = findMachine(ports, name)
    return machine === undefined
      ? refuse('not-found', `there is no machine ${name} here`, 'smith machines lists what there is', name)
      : { ok: true as const, machine }
  }
  const none = (name: string) =>
    refuse('not-found', `there is no such health report of ${name} here`, `ask for one: smith report ${name}`, name)
  const off = () => refuse('unavailable', 'this coordinator keeps no health reports', 'ask another instance')
  return {
    reportAsk: async (call) => {
      const { params, actor } = call
      const found = machineOf(params['machine'] ?? '')
      if (!found.ok) return found
      if (ports.reports === undefined) return off()
      // In the journal before anything is asked of the machine.
      await submit(call, { type: 'reportAsked', machine: found.machine.name })
      return { ok: true, status: 202, value: ports.reports.ask(found.machine, journalName(actor)) }
    },
    report: ({ params, query }) => {
      const name = params['machine'] ?? ''
      const found = machineOf(name)
      if (!found.ok) return found
      if (query['report'] !== undefined && !ID_PATTERN.test(query['report']))
        return refuse(
          'bad-value',
          'report is no id of a report',
          'give 32 hexadecimal digits, or leave it out',
          'report',
        )
      const value = ports.reports?.find(found.machine.id, query['report'] ?? null)
      return value === undefined ? none(name) : { ok: true, value }
    },
    reportFile: ({ params, query }) => {
      const [name = '', file = ''] = [params['machine'], params['file']]
      const found = machineOf(name)
      if (!found.ok) return found
      const report = query['report'] ?? ''
      const text = ID_PATTERN.test(report) ? ports.reports?.file(found.machine.id, report, file) : undefined
      return text === undefined ? none(name) : { ok: true, value: { name: file, text } }
    },
  }
}
