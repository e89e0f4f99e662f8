"""The service `get_structure`: the atomic structure of one measurement, with or without a micro-scan at the same place."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import numpy as np
from edgetem.msg import AtomicStructure
from edgetem.srv import GetStructure

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.bookkeeping import Remembered
from edgetem_nodes.featurizer.cbed.materials import MATERIALS, Material, trained_materials
from edgetem_nodes.featurizer.micro_scan.descriptors import ELEMENTS
from edgetem_nodes.featurizer.parameters import Structure
from edgetem_nodes.featurizer.structures import (MeasuredStructure, NotIdentifiable, SheetAtoms, checks, defect_cell,
                                                 deformed_cell, strained_sheet, undeformed, unit_cell)
from edgetem_nodes.graph.messages import NIL, byte_array, number_array, to_stamp, to_uuid
from edgetem_nodes.graph.quality_of_service import EVENTS

if TYPE_CHECKING:
    from edgetem_nodes.featurizer.node import FeaturizerNode

Codes = GetStructure.Response
LARGEST_DISTANCE = 2e-9
"""[m] between a pattern and the micro-scan whose cells are one: they should be at the same place."""


class Refused(Exception):
    """A request without a structure: an error code and its message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StructureService:
    """Serves `get_structure` and publishes every structure that was asked for on `structure`."""

    def __init__(self, node: FeaturizerNode) -> None:
        self._node = node
        self._publisher = node.create_publisher(AtomicStructure, "structure", EVENTS)
        self._service = node.create_service(GetStructure, "get_structure", self._on_request)

    def destroy(self) -> None:
        """Give up service and publisher."""
        self._node.destroy_service(self._service)
        self._node.destroy_publisher(self._publisher)

    def _on_request(self, request: GetStructure.Request, response: GetStructure.Response) -> GetStructure.Response:
        try:
            response.structure = self._answer(request)
        except Refused as refusal:
            response.error_code, response.error_msg = refusal.code, str(refusal)
            return response
        except NotIdentifiable as error:
            response.error_code, response.error_msg = Codes.NOT_IDENTIFIABLE, str(error)
            return response
        self._publisher.publish(response.structure)
        return response

    def _answer(self, request: GetStructure.Request) -> AtomicStructure:
        node, micro_scan = self._node, None
        if not node.active:
            raise Refused(Codes.NOT_ACTIVE, "the featurizer is not active")
        measured = self._row(to_uuid(request.acquisition_id), request.index)
        if "deformation" not in measured.details or not node.definition.structural:
            raise self._no_model()
        if to_uuid(request.micro_scan_id) != NIL:
            micro_scan = self._row(to_uuid(request.micro_scan_id), request.micro_scan_index)
            if "atoms" not in micro_scan.details:
                raise Refused(Codes.NO_STRUCTURE_MODEL, f"measurement {request.micro_scan_index} of acquisition "
                                                        f"{to_uuid(request.micro_scan_id)} is no micro-scan: it has no atoms")
        structure = self._structure(measured, micro_scan)
        message = structure_message(structure, measured)
        message.acquisition_id, message.index = request.acquisition_id, request.index
        message.micro_scan_id, message.micro_scan_index = request.micro_scan_id, request.micro_scan_index
        return message

    def _row(self, acquisition_id: uuid.UUID, index: int) -> Remembered:
        """A measurement that has not failed."""
        node = self._node
        found = node.memory.find(acquisition_id, index)
        if found is None and not node.definition.structural:
            raise self._no_model()
        if found is None:
            raise Refused(Codes.UNKNOWN_MEASUREMENT, f"measurement {index} of acquisition {acquisition_id} is unknown or was "
                                                     "forgotten")
        if found.failure:
            raise NotIdentifiable(f"measurement {index} failed and has no structure: {found.failure}")
        return found

    def _no_model(self) -> Refused:
        return Refused(Codes.NO_STRUCTURE_MODEL, f"scalarizer {self._node.definition.name!r} says nothing of atoms; structures "
                                                 f"come from {', '.join(scalarizers.STRUCTURAL)}")

    def _structure(self, measured: Remembered, micro_scan: Remembered | None) -> MeasuredStructure:
        parameters, told = self._node.parameters, measured.details
        settings = parameters.structure
        strain = told["deformation"], told["deformation_covariance"]
        if "phase" not in told:
            if micro_scan is None:
                return strained_sheet(*strain, parameters.resolved_lattice(), settings)
            sheet = undeformed(parameters.resolved_lattice(), settings, 1)
            return defect_cell(sheet, *strain, sheet_atoms(measured, micro_scan), settings, parameters.lattice.material)
        material = _material(told, settings)
        if not material.sheet:
            if micro_scan is not None:
                raise NotIdentifiable(f"{material.name} is a crystal; micro-scans tell the atoms of sheets: ask without one")
            return deformed_cell(unit_cell(material), *strain, settings, material.name)
        if micro_scan is not None:
            return defect_cell(unit_cell(material), *strain, sheet_atoms(measured, micro_scan), settings, material.name)
        return deformed_cell(unit_cell(material), *strain, settings, material.name)


def _material(details: dict, settings: Structure) -> Material:
    """The phase of a nanobeam pattern. Raises NotIdentifiable where it is unknown or not probable enough."""
    number = int(details["phase"])
    if "material" in details:
        name = str(details["material"])
    else:
        name = trained_materials()[number].name if number >= 0 else ""
    if number < 0 or name not in MATERIALS:
        raise NotIdentifiable("the phase is none of those that are known: there is no crystal to build a cell of")
    checks.phase_known(name, float(details.get("phase_probability", 1.0)), settings)
    return MATERIALS[name]


def sheet_atoms(measured: Remembered, micro_scan: Remembered) -> SheetAtoms:
    """What a micro-scan told of atoms. Raises NotIdentifiable where it was taken elsewhere than the pattern."""
    told = micro_scan.details
    apart = float(np.linalg.norm(measured.position - micro_scan.position))
    if apart > LARGEST_DISTANCE:
        raise NotIdentifiable(f"pattern and micro-scan were taken {apart * 1e9:.3g} nm apart; {LARGEST_DISTANCE * 1e9:g} nm "
                              "is the limit: take both at the same place")
    layer = told["layer"] if "layer" in told else np.zeros(len(told["atoms"]), int)
    return SheetAtoms(told["atoms"], told["atom_covariance"], told["host"], layer, told["species_probability"], ELEMENTS,
                      float(told["footprint"]))


def structure_message(structure: MeasuredStructure, measured: Remembered) -> AtomicStructure:
    """A structure as a message, short of what it was derived from; `measured` says where and when."""
    y, x = measured.position * 1e9
    message = AtomicStructure(source=structure.source, material=structure.material, charge=structure.charge,
                              label=f"{structure.material} at ({y:.2f}, {x:.2f}) nm".lstrip(),
                              footprint_area=structure.footprint_area)
    message.header.stamp, message.header.frame_id = to_stamp(0, measured.stamp), "specimen"
    message.atomic_numbers = byte_array(structure.atomic_numbers.astype(np.uint8))
    message.positions = number_array(structure.positions)
    message.position_standard_errors = number_array(structure.standard_errors)
    message.position_covariances = number_array(structure.covariances)
    message.deformation_covariance = number_array(structure.deformation_covariance)
    message.cell, message.periodic = structure.cell.ravel(), list(structure.periodic)
    message.seen_positions = number_array(structure.seen)
    message.seen_probabilities = number_array(structure.seen_probabilities)
    message.seen_in_cell = structure.seen_in_cell.tolist()
    message.defects = [defect.name for defect in structure.defects]
    message.defect_probabilities = number_array([defect.probability for defect in structure.defects])
    message.defect_positions = number_array([defect.position for defect in structure.defects])
    message.defect_atomic_numbers = byte_array(np.array([defect.element for defect in structure.defects], np.uint8))
    message.defect_hosts = byte_array(np.array([defect.host for defect in structure.defects], np.uint8))
    return message
