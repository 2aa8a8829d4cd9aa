/**
 * The scenario world of test/coordinator with ServiceNow as its change provider: the real client, outbox and core over
 * virtual time, against the stand-in. A test can end the coordinator at any of its calls, before or after it was done.
 */
import { type OutboxOptions, createOutboxCore, createOutboxStep, isOutbox } from '../../coordinator/change/outbox.ts'
import { ServiceNowError } from '../../coordinator/change/servicenow/failures.ts'
import type { Http } from '../../coordinator/ports.ts'
import { type ServiceNow, createServiceNow } from '../../coordinator/change/servicenow/provider.ts'
import { type ServiceNowSettings, linkOf } from '../../coordinator/change/servicenow/settings.ts'
import {
  type Plug,
  type PlugParts,
  START,
  type World,
  type WorldOptions,
  createWorld,
  must,
} from '../coordinator/harness.ts'
import type { Record_ } from './records.ts'
import { settingsOf } from './settings.ts'
import { SECRET, StandIn } from './stand-in.ts'

export const NAMES = ['prod-dal10-web-1', 'prod-dal10-web-2'] as const

export type SnowWorld = World & {
  readonly standIn: StandIn
  readonly servicenow: () => ServiceNow
  readonly settings: ServiceNowSettings
  /** The change as ServiceNow has it. */
  readonly change: (number: string) => Record_
  /** Asks, approves there, and lets the first machine be granted. */
  readonly approved: (text: string) => Promise<string>
}

/** Ends the coordinator at call `at` (from 1), before or after it is done, or with its effect still on the way (`late`); `death` is null when nobody is to die. */
export type Death = { at: number; when: 'before' | 'after' | 'late'; isDead: boolean }

export async function createSnowWorld(
  options: WorldOptions & { readonly lines?: string; readonly death?: Death } = {},
): Promise<SnowWorld> {
  const settings = settingsOf(options.lines)
  const held: { standIn: StandIn | null; servicenow: ServiceNow | null } = { standIn: null, servicenow: null }
  const plug = (parts: PlugParts): Plug => {
    held.standIn ??= new StandIn(parts.time.now)
    held.servicenow = null
    const made = () =>
      (held.servicenow ??= plugIn(
        parts,
        settings,
        must(held.standIn ?? undefined),
        options.death,
        options.approval?.requesterMayApprove === true,
      ))
    const link: OutboxOptions = { linkOf: (row) => linkOf(settings, row.sysId ?? '') }
    return {
      core: createOutboxCore(link),
      local: { isLocal: isOutbox, step: createOutboxStep(link) },
      toChange: (call) => made().toChange(call),
      start: () => made().start(),
    }
  }
  const world = await createWorld({ machines: NAMES, ...options, plug })
  const standIn = must(held.standIn ?? undefined)
  const approved = async (text: string) => {
    const number = await world.ask(text)
    standIn.records.approve(number)
    await world.later(20_000)
    return number
  }
  return {
    ...world,
    standIn,
    settings: settings as never,
    servicenow: () => must(held.servicenow ?? undefined),
    change: (number) => standIn.records.byNumber(number),
    approved,
  }
}

function plugIn(
  parts: PlugParts,
  settings: ServiceNowSettings,
  standIn: StandIn,
  death: Death | undefined,
  requesterMayApprove: boolean,
): ServiceNow {
  return createServiceNow({
    settings,
    view: parts.driver().view,
    submit: (event) => (parts.isAlive() ? parts.track(parts.driver().submit({ kind: 'change' }, event)) : never()),
    now: () => parts.driver().now(),
    http: playHttp(parts, standIn, death),
    readSecret: () => SECRET,
    clock: parts.clock,
    random: { bytes: (count) => new Uint8Array(count) },
    log: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} },
    permissionMsMax: 10_000,
    requesterMayApprove,
  })
}

/** Less than `settle`, which is how long smith waits for what may still come. */
const LATE_MS = 10_000
const never = <T>() => new Promise<T>(() => {})

/** The stand-in without a network between; what dies or hangs never answers, but for its time limit. */
function playHttp(parts: PlugParts, standIn: StandIn, death: Death | undefined): Http {
  const play: Http = async ({ method, url, headers, body, timeoutMs }) => {
    const isCounted = death !== undefined && !death.isDead && !url.includes('oauth_token')
    const dies = isCounted && standIn.calls.length + 1 === death.at
    if (dies) death.isDead = true
    if (dies && death.when === 'late')
      parts.time.after(LATE_MS, () => void standIn.handle(method, url, headers, body ?? ''))
    if (dies && death.when !== 'after') return never()
    const answer = await standIn.handle(method, url, headers, body ?? '')
    if (dies) return never()
    if (answer === 'cut')
      throw new ServiceNowError('unreachable', "ServiceNow (https://stand-in) can't be reached: socket hang up", {
        isAmbiguous: true,
      })
    if (answer === 'late') {
      const { fault } = standIn
      parts.time.after(timeoutMs + 10_000, () => {
        standIn.fault = () => undefined
        void standIn.handle(method, url, headers, body ?? '')
        standIn.fault = fault
      })
    }
    if (answer === 'hang' || answer === 'late') {
      await new Promise<void>((resolve) => void parts.clock.after(timeoutMs, resolve))
      throw new ServiceNowError('unreachable', "ServiceNow (https://stand-in) can't be reached: no answer in time", {
        isAmbiguous: true,
      })
    }
    return { status: answer.status, headers: answer.headers, text: answer.body }
  }
  return (ask) => play(ask)
}

export { START }
