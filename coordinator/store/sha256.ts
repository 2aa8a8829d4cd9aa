/** SHA-256 of the UTF-8 text, hexadecimal: that of the journal's chain. */
import { hash } from 'node:crypto'

export const sha256 = (text: string): string => hash('sha256', text)
