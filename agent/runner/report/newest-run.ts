/**
 * The newest run of a machine, as its own records tell it. The cause is the one that the run itself found: a report
 * repeats it and decides nothing anew.
 */
import * as v from 'valibot'
import { type GrantPayload, grantPayloadSchema, inboxEntrySchema, recordSchema } from '../../../protocol/files.ts'
import { type Plan, planSchema } from '../../../protocol/plan.ts'
import type { ReportedRun } from '../../../protocol/report.ts'
import { type Disk, readIfExists } from '../../disk/disk.ts'
import { type Layout, type OrderLayout, orderLayoutOf } from '../../disk/layout.ts'
import { knownOrders, lastRecordAsWritten, readFate } from '../../disk/order-state.ts'
import { visible } from '../../apt/diagnosis.ts'
import { lineAround } from './records.ts'

export type NewestRun = { readonly files: OrderLayout; readonly run: ReportedRun; readonly plan: Plan | null }

const GRANT_BYTES_MAX = 4 * 1024 * 1024

/** Of the highest fence that was claimed; null when nothing ever ran here. */
export function newestRun(disk: Disk, layout: Layout): NewestRun | null {
  const claimed = knownOrders(disk, layout).flatMap((order) => {
    const files = orderLayoutOf(layout, order)
    const fate = readFate(disk, files)
    return fate?.fate === 'claim' ? [{ order, files, fate }] : []
  })
  const newest = claimed.toSorted((a, b) => a.fate.fence - b.fate.fence).at(-1)
  if (newest === undefined) return null
  const { order, files, fate } = newest
  const change = grantOf(disk, files)?.change ?? null
  const read = v.safeParse(recordSchema, lastRecordAsWritten(disk, files))
  const last = read.success ? read.output : null
  const plan = planOf(disk, files)
  if (last?.type === 'result') {
    const { step, outcome, cause, message, evidence, advice, at } = last
    return { files, plan, run: { order, change, step, outcome, cause, message, evidence, advice, at } }
  }
  const step = last !== null && 'step' in last ? last.step : 'claim'
  const told = last?.type === 'note' ? last.text : last?.type === 'line' ? lineAround(disk, files, last.offset) : ''
  const message = `at work, at ${step}${told.trim() === '' ? '' : `; last said: ${visible(told.trim())}`}`.slice(
    0,
    2000,
  )
  const at = last?.at ?? fate.at
  return {
    files,
    plan,
    run: { order, change, step, outcome: null, cause: null, message, evidence: [], advice: [], at },
  }
}

function grantOf(disk: Disk, files: OrderLayout): GrantPayload | null {
  const bytes = readIfExists(disk, files.grant, GRANT_BYTES_MAX)
  const entry = bytes === null ? null : v.safeParse(inboxEntrySchema, JSON.parse(bytes.toString('utf8')))
  if (entry?.success !== true || entry.output.type !== 'grant') return null
  const text = Buffer.from(entry.output.grant.payload, 'base64').toString('utf8')
  const payload = v.safeParse(grantPayloadSchema, JSON.parse(text))
  return payload.success ? payload.output : null
}

function planOf(disk: Disk, files: OrderLayout): Plan | null {
  const bytes = readIfExists(disk, files.plan, GRANT_BYTES_MAX)
  const plan = bytes === null ? null : v.safeParse(planSchema, JSON.parse(bytes.toString('utf8')))
  return plan?.success === true ? plan.output : null
}
