/**
 * Which faults met which states of an order, over many seeds: the table that a long run ends with, and the cells that
 * it never met. Which of those can't be met, and why, stands in docs/DECISIONS.md.
 */
import { STEPS } from '../../protocol/files.ts'
import { MET } from './faults.ts'

/** `fault x state`, how often. */
export type Cells = ReadonlyMap<string, number>

/** Of the order that a fault met; `running` before its first step was told, `none` without an order. */
export const STATES = ['none', 'offered', 'granted', 'running', ...STEPS, 'unknown'] as const

export function cellsText(cells: Cells): string {
  const row = (name: string, numbers: readonly (string | number)[]) =>
    `${name.padEnd(24)}${numbers.map((one) => String(one).padStart(12)).join('')}`
  const rows = MET.map((fault) =>
    row(
      fault,
      STATES.map((state) => cells.get(`${fault} x ${state}`) ?? '-'),
    ),
  )
  return [row('fault x order state', STATES), ...rows].join('\n')
}

/** A line for each fault that did not meet every state. */
export function neverMet(cells: Cells): string[] {
  return MET.flatMap((fault) => {
    const states = STATES.filter((state) => !cells.has(`${fault} x ${state}`))
    return states.length === 0 ? [] : [`never met: ${fault} x ${states.join(', ')}`]
  })
}
