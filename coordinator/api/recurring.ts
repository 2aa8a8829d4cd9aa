/** What the routes of recurring requests do. Called by handlers.ts. */
import { compareNaturally } from '../../protocol/natural-order.ts'
import type { ScheduleView } from '../../protocol/recurring.ts'
import type { Firing, Schedule } from '../domain/schedule-rows.ts'
import { refuse } from './bodies.ts'
import type { Hand, Handlers } from './calls.ts'
import type { ApiPorts } from './ports.ts'
import { findRequest } from './views.ts'

export function recurring(
  ports: ApiPorts,
  { command }: Hand,
): Pick<Handlers, 'schedules' | 'scheduleAdd' | 'scheduleRemove' | 'scheduleRun'> {
  const { view } = ports.driver
  const shown = (name: string) => {
    const schedule = view.get('schedules', name)
    if (schedule !== undefined) return { ok: true, value: viewOf(ports, schedule) } as const
    return refuse('not-found', `there is no schedule ${name}`, 'smith schedule list has those that there are', name)
  }
  return {
    schedules: () => ({
      ok: true,
      value: {
        schedules: [...view.all('schedules')]
          .map((schedule) => viewOf(ports, schedule))
          .toSorted((left, right) => compareNaturally(left.name, right.name)),
      },
    }),
    scheduleAdd: async (call) => {
      const done = await command(call, { type: 'scheduleAdd', ...call.body })
      return done.ok ? shown(call.body.name) : done
    },
    scheduleRemove: (call) => command(call, { type: 'scheduleRemove', name: call.body.name }),
    scheduleRun: async (call) => {
      const done = await command(call, { type: 'scheduleRun', name: call.body.name })
      return done.ok ? shown(call.body.name) : done
    },
  }
}

function viewOf(ports: ApiPorts, schedule: Schedule): ScheduleView {
  const { name, cron, text, by, createdAt, next } = schedule
  return {
    ...{ name, cron, text, by, createdAt, next },
    timezone: ports.tools.settings.schedule.timezone,
    firings: schedule.firings.map((firing) => firingOf(ports, firing)),
  }
}

/** What became of a request is read from the request itself. */
function firingOf(ports: ApiPorts, firing: Firing): ScheduleView['firings'][number] {
  const request = firing.request === null ? undefined : findRequest(ports, firing.request)
  const state = request?.state === 'raising' || request?.state === 'previewed' ? 'planning' : request?.state
  const { at, by, what } = firing
  return {
    ...{ at, by, request: firing.request, change: request?.change ?? null },
    outcome: what === 'asked' ? (state ?? 'planning') : what,
    reasons: [...firing.reasons, ...(request?.refusals ?? []).map(({ message }) => message)],
  }
}
