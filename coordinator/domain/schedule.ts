/**
 * Whether a machine may be granted now as far as time goes: inside the window of the request, that of the change and
 * those of the configuration, outside its blackouts, and only when it can be expected to end in time. What has begun
 * is never ended by any of this. Called by stops.ts and, for the change's window, by rollout.ts. Keeps WIN-2.
 */
import { type Draft } from './draft.ts'
import type { Calendar, Settings } from './events.ts'
import type { Instant, Order, Project, Span } from './state.ts'
import { duration } from './time-text.ts'

/** Why nothing may be granted now, and when that ends; null when it is over for good. */
export type Shut = { readonly reason: string; readonly until: Instant | null }

/** The longest that a machine of the project took, else what the configuration expects with the outage declared. */
export function expectedMs(settings: Settings, project: Project): number {
  return project.runMsMax ?? settings.schedule.runMsExpected + project.options.outageMinutes * 60_000
}

/** How long a run took, by the machine's own clock as far as that can be: it may have been out of reach at its end. */
export function runMsOf(order: Order, at: Instant): number {
  const here = at - (order.grantedAt ?? at)
  if (order.firstAt === null || order.result === null) return here
  return Math.min(here, Math.max(0, order.result.at - order.firstAt))
}

/** The window of the request and the rules of the configuration. */
export function shutNow(draft: Draft, project: Project): Shut | null {
  const { calendar, settings } = draft.tools
  const needMs = expectedMs(settings, project)
  const { window } = project.options
  const shut =
    window === null ? null : windowShut('the window of the request', window, { at: draft.at, needMs, calendar })
  if (shut !== null && shut.until === null) return shut
  const open = calendar.nextOpen(shut?.until ?? draft.at, needMs)
  if (open === null) return { reason: `no window of the configuration is open for ${duration(needMs)}`, until: null }
  if (window !== null && open.start + needMs > window.end) {
    const reason = `${open.why ?? 'the window of the request'}, and there is no time left before ${calendar.show(window.end)}`
    return { reason, until: null }
  }
  if (open.start <= draft.at) return null
  const why = shut?.reason ?? `${tooShort(open.why ?? '', needMs)}; it opens at ${calendar.show(open.start)}`
  return { reason: why, until: open.start }
}

function tooShort(why: string, needMs: number): string {
  return why.includes('ends at') ? `${why}, too soon for a machine that is expected to take ${duration(needMs)}` : why
}

type Now = { readonly at: Instant; readonly needMs: number; readonly calendar: Calendar }

/** The same for a single window; `what` names it. */
export function windowShut(what: string, window: Span, { at, needMs, calendar }: Now): Shut | null {
  if (at >= window.end) return { reason: `${what} ended at ${calendar.show(window.end)}`, until: null }
  if (Math.max(at, window.start) + needMs > window.end) {
    const reason = `${what} ends at ${calendar.show(window.end)}, too soon for a machine that is expected to take ${duration(needMs)}`
    return { reason, until: null }
  }
  if (at < window.start) return { reason: `${what} opens at ${calendar.show(window.start)}`, until: window.start }
  return null
}
